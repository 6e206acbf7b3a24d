use std::time::Instant;
use tank_client::*;
fn main() {
    let a: Vec<String> = std::env::args().collect();
    let client = Client::connect(&a[1]).unwrap();
    let topic = &a[2];
    let _ = client.create_topic(topic, 1, &TopicConfig::new());
    let (count, batch, size): (usize, u32, usize) =
        (a[3].parse().unwrap(), a[4].parse().unwrap(), a[5].parse().unwrap());
    let mode = a.get(6).map_or("auto", |s| s.as_str());
    let mut body = String::new();
    let mut st = 7u64;
    let words = ["alpha ", "beta ", "gamma ", "delta ", "order ", "user ", "click ", "view "];
    while body.len() < size + 4096 {
        st = st.wrapping_mul(6364136223846793005).wrapping_add(1);
        body += words[(st >> 33 & 7) as usize];
        body += &((st >> 40) % 1000).to_string();
    }
    let body = body.as_bytes();
    let compression = if mode.contains("plain") { Compression::None } else { Compression::Auto };
    if mode == "one" {
        let mut lat = vec![];
        for i in 0..count {
            let s = Instant::now();
            client
                .publish(topic, 0, &[Record::new(&body[i * 37 % 4000..][..size]).timestamp_ms(1700000000000)])
                .unwrap();
            lat.push(s.elapsed());
        }
        lat.sort();
        println!("publish p50={:?} p99={:?}", lat[count / 2], lat[count * 99 / 100]);
        return;
    }
    let mut p = client
        .producer()
        .max_records(batch)
        .max_bytes(a.get(7).map_or(8 << 20, |b| b.parse().unwrap()))
        .compression(compression);
    if mode.contains("idem") {
        p = p.idempotent();
    }
    if mode.contains("w1") {
        p = p.window(1);
    }
    let mut p = p.build().unwrap();
    let s = Instant::now();
    for i in 0..count {
        let k = i % batch as usize;
        p.send_to(topic, 0, Record::new(&body[k * 37 % 4000..][..size]).timestamp_ms(1700000000000)).unwrap();
    }
    p.flush().unwrap();
    let d = s.elapsed().as_secs_f64();
    assert_eq!(p.stored(), count as u64);
    println!("rust {mode} Mmsg/s={:.3} MB/s={:.1}", count as f64 / d / 1e6, (count * size) as f64 / d / 1e6);
}
