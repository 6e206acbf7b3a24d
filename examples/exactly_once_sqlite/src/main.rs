//! Stores the messages of a topic in SQLite, each exactly once: rows and positions are written in one transaction. Of two that
//! store the same topic in the same database, one ends.
//!
//! ```sh
//! cargo run -p exactly_once_sqlite -- 127.0.0.1:11011 orders orders.db
//! ```

use std::error::Error;

use rusqlite::{Connection, TransactionBehavior, params};
use tank_client::{Client, Position, Positions, Start, Subscription};

const TABLES: &str = "
    CREATE TABLE IF NOT EXISTS messages (topic TEXT, partition INTEGER, seq INTEGER, payload BLOB);
    CREATE TABLE IF NOT EXISTS positions (topic TEXT, partition INTEGER, seq INTEGER, PRIMARY KEY (topic, partition));
";

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [brokers, topic, file] = &args[..] else { return Err("usage: exactly_once_sqlite BROKERS TOPIC FILE".into()) };

    let mut db = Connection::open(file)?;
    db.execute_batch(TABLES)?;
    // Partitions that the database does not know yet begin with their first message.
    let mut stored = positions(&db, topic)?;
    println!("positions so far: [{stored}]");
    let all = Subscription::topic(topic).start(Start::Earliest).resume(&stored);
    let mut messages = Client::connect(brokers)?.subscribe(all)?;
    let handle = messages.close_handle();
    ctrlc::set_handler(move || handle.close())?;

    while let Some(batch) = messages.next_batch()? {
        let transaction = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
        if positions(&transaction, topic)? != stored {
            return Err("another program stores this topic in the same database".into());
        }
        {
            let mut insert = transaction.prepare_cached("INSERT INTO messages VALUES (?1, ?2, ?3, ?4)")?;
            for message in batch {
                insert.execute(params![message.topic(), message.partition(), message.seq(), message.payload()])?;
            }
            stored.extend(messages.positions());
            let mut replace = transaction.prepare_cached("REPLACE INTO positions VALUES (?1, ?2, ?3)")?;
            for position in &stored {
                replace.execute(params![&*position.topic, position.partition, position.seq])?;
            }
        }
        transaction.commit()?;
        println!("continuing at {stored}");
    }
    Ok(())
}

fn positions(db: &Connection, topic: &str) -> rusqlite::Result<Positions> {
    let mut rows = db.prepare_cached("SELECT topic, partition, seq FROM positions WHERE topic = ?1")?;
    let position = |row: &rusqlite::Row<'_>| Ok(Position::new(row.get::<_, String>(0)?, row.get(1)?, row.get(2)?));
    rows.query_map([topic], position)?.collect()
}
