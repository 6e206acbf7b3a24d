//! The program killed again and again, at random moments, and started twice: nothing is lost, and nothing is there twice.

use std::error::Error;
use std::hint::black_box;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use common::watch::within;
use rusqlite::Connection;
use tank_client::broker::Broker;
use tank_client::{Client, Record};

const PARTITIONS: u16 = 3;
const MESSAGES: u64 = 20_000;

#[test]
fn killed_at_random_it_stores_each_message_once() {
    within(120, || kill_until_all_is_stored().unwrap());
}

fn kill_until_all_is_stored() -> Result<(), Box<dyn Error>> {
    let broker = broker()?;
    let file = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("orders-{}.db", std::process::id()));
    let mut random = std::process::id();
    let mut next = |below: u32| {
        random = random.wrapping_mul(747_796_405).wrapping_add(2_891_336_453);
        (random >> 16) % below
    };
    let end: String = (0..PARTITIONS).map(|id| format!(" orders/{id}={}", MESSAGES + 1)).collect();
    let (mut kills, mut done) = (0, false);
    while !done {
        let mut program = start(&broker.addr().to_string(), &file)?;
        // Some transactions, and part of the next one.
        let lines = BufReader::new(program.stdout.take().unwrap()).lines().take(1 + next(4) as usize);
        for line in lines {
            done = line?.ends_with(&end);
            if done {
                break;
            }
        }
        let _spent = (0..next(3_000_000)).map(black_box).fold(0, u32::wrapping_add);
        program.kill()?;
        program.wait()?;
        kills += 1;
    }

    let db = Connection::open(&file)?;
    let found = db.query_row(
        "SELECT count(*), count(DISTINCT partition * 1000000 + seq), sum(CAST(payload AS TEXT) = partition || '-' || seq) FROM messages",
        [],
        |row| Ok([row.get::<_, u64>(0)?, row.get(1)?, row.get(2)?]),
    )?;
    assert_eq!(found, [MESSAGES * u64::from(PARTITIONS); 3], "rows, different ones, right ones after {kills} kills");
    assert!(kills > 5, "only {kills}");
    println!("killed {kills} times");
    Ok(std::fs::remove_file(file)?)
}

#[test]
fn two_at_a_time_store_each_message_once() {
    within(120, || run_two().unwrap());
}

fn run_two() -> Result<(), Box<dyn Error>> {
    let broker = broker()?;
    let file = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("two-{}.db", std::process::id()));
    let mut programs = Vec::new();
    // Both have read the positions before either has a broker to read from.
    broker.pause();
    for _ in 0..2 {
        let mut program = start(&broker.addr().to_string(), &file)?;
        let mut out = BufReader::new(program.stdout.take().unwrap()).lines();
        assert_eq!(out.next().unwrap()?, "positions so far: []");
        programs.push((program, out));
    }
    broker.resume();
    // One of them goes on, and the other one ends.
    let ended = loop {
        if let Some(one) = programs.iter_mut().position(|(program, _)| program.try_wait().unwrap().is_some()) {
            break one;
        }
        std::thread::yield_now();
    };
    assert!(!programs[ended].0.wait()?.success());
    let end: String = (0..PARTITIONS).map(|id| format!(" orders/{id}={}", MESSAGES + 1)).collect();
    let (mut other, out) = programs.swap_remove(1 - ended);
    assert!(out.map_while(Result::ok).any(|line| line.ends_with(&end)));
    other.kill()?;
    other.wait()?;
    let count = "SELECT count(*) FROM messages";
    let found: u64 = Connection::open(&file)?.query_row(count, [], |row| row.get(0))?;
    assert_eq!(found, MESSAGES * u64::from(PARTITIONS));
    Ok(std::fs::remove_file(file)?)
}

fn broker() -> Result<Broker, Box<dyn Error>> {
    let broker = Broker::start()?;
    broker.create_topic("orders", PARTITIONS);
    let client = Client::connect(broker.addr())?;
    for first in (1..=MESSAGES).step_by(1000) {
        for id in 0..PARTITIONS {
            let payloads: Vec<String> = (first..first + 1000).map(|seq| format!("{id}-{seq}")).collect();
            let records: Vec<Record> = payloads.iter().map(Record::new).collect();
            client.publish("orders", id, &records)?;
        }
    }
    Ok(broker)
}

fn start(broker: &str, file: &PathBuf) -> std::io::Result<Child> {
    let mut program = Command::new(env!("CARGO_BIN_EXE_exactly_once_sqlite"));
    program.args([broker, "orders"]).arg(file).stdout(Stdio::piped()).spawn()
}
