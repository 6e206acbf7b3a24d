//! The example `checkpointed_worker`, killed again and again.

use std::collections::BTreeMap;
use std::fs;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use tank_client::Checkpoint;
use tank_client::broker::Broker;

use common::example::{example, run, scratch};
use common::rng::Rng;

const PARTITIONS: u16 = 3;
const MESSAGES: u64 = 60_000;

fn broker() -> Broker {
    let broker = Broker::start().unwrap();
    broker.create_topic("orders", PARTITIONS);
    for partition in 0..PARTITIONS {
        for bundle in 0..MESSAGES / 100 {
            let payloads: Vec<_> = (1..=100).map(|n| format!("{partition}-{}", bundle * 100 + n)).collect();
            broker.append_payloads("orders", partition, &payloads);
        }
    }
    broker
}

/// The messages that a run has worked on, by partition; the last line of a run that was killed may be half.
fn done(output: &[u8]) -> BTreeMap<u16, Vec<u64>> {
    let mut done: BTreeMap<u16, Vec<u64>> = BTreeMap::new();
    let whole = output.iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end + 1);
    for line in String::from_utf8_lossy(&output[..whole]).lines() {
        let [partition, seq, payload] = line.split('\t').collect::<Vec<_>>()[..] else { panic!("{line:?}") };
        assert_eq!(payload, format!("{partition}-{seq}"));
        done.entry(partition.parse().unwrap()).or_default().push(seq.parse().unwrap());
    }
    done
}

#[test]
fn killed_hundreds_of_times_it_leaves_nothing_out_and_repeats_only_what_was_not_saved() {
    let started = Instant::now();
    let broker = broker();
    let addr = broker.addr().to_string();
    let (file, output) = (scratch("worker"), scratch("worker-output"));
    let mut rng = Rng::new(7);
    let mut command = example("checkpointed_worker");
    command.args([&addr, "orders", file.to_str().unwrap()]);

    // Next number by partition: as saved, and as worked on by any run.
    let mut saved = BTreeMap::new();
    let mut reached: BTreeMap<u16, u64> = BTreeMap::new();
    let (mut kills, mut repeated, mut idle, mut saves) = (0, 0, 0, 0);
    while kills < 400 && started.elapsed() < Duration::from_secs(20) {
        command.stdout(fs::File::create(&output).unwrap()).stderr(Stdio::null());
        let mut worker = command.spawn().unwrap();
        sleep(Duration::from_micros(rng.between(1_000, 20_000) as u64));
        worker.kill().unwrap();
        worker.wait().unwrap();
        kills += 1;

        let done = done(&fs::read(&output).unwrap());
        idle += u32::from(done.is_empty());
        for (&partition, seqs) in &done {
            let begin = saved.get(&partition).copied().unwrap_or(1);
            assert!(seqs.iter().copied().eq(begin..begin + seqs.len() as u64), "begins with what was saved, no holes");
            let before = reached.get(&partition).copied().unwrap_or(1);
            repeated += before - begin;
            assert!(before - begin <= 150, "repeats what was not saved, and no more");
            reached.insert(partition, before.max(begin + seqs.len() as u64));
        }
        let checkpoint = Checkpoint::open(&file).unwrap();
        for position in checkpoint.positions() {
            let next = position.seq.max(1);
            assert!(next <= reached.get(&position.partition).copied().unwrap_or(1), "saved before it was done");
            assert!(next >= saved.get(&position.partition).copied().unwrap_or(1), "a save was lost");
            saves += u32::from(saved.insert(position.partition, next) != Some(next));
        }
    }
    println!("{kills} kills, {idle} before any work, {saves} times further, {repeated} messages repeated");
    assert!(kills >= 200, "only {kills} kills in {:?}", started.elapsed());

    // The rest, without interruption.
    let at_end = |checkpoint: &Checkpoint| {
        let positions = checkpoint.positions();
        (0..PARTITIONS).all(|partition| positions.get("orders", partition) == Some(MESSAGES + 1))
    };
    let mut worker = command.stdout(fs::File::create(&output).unwrap()).spawn().unwrap();
    while !Checkpoint::open(&file).is_ok_and(|checkpoint| at_end(&checkpoint)) {
        assert!(started.elapsed() < Duration::from_secs(100), "not at the end");
        sleep(Duration::from_millis(5));
    }
    worker.kill().unwrap();
    worker.wait().unwrap();
    let rest = done(&fs::read(&output).unwrap());
    for partition in 0..PARTITIONS {
        let begin = saved.get(&partition).copied().unwrap_or(1);
        assert!(rest.get(&partition).into_iter().flatten().copied().eq(begin..=MESSAGES), "partition {partition}");
    }
    let end = Checkpoint::open(&file).unwrap();
    assert!(end.positions().iter().all(|position| position.seq == MESSAGES + 1));
    assert_eq!(end.positions().iter().len(), usize::from(PARTITIONS));
}

#[test]
fn two_topics_stop_on_ctrl_c_and_go_on() {
    let broker = Broker::start().unwrap();
    broker.create_topic("orders", 2);
    broker.create_topic("clicks", 1);
    let (file, output) = (scratch("two-topics"), scratch("two-topics-output"));
    let addr = broker.addr().to_string();
    for round in ["first", "second"] {
        broker.append_payloads("orders", 1, &[round, "tea"]);
        broker.append_payloads("clicks", 0, &[round]);
        let mut command = example("two_topics");
        command.args([&addr, "orders", "clicks", file.to_str().unwrap()]);
        let mut program = command.stdout(fs::File::create(&output).unwrap()).spawn().unwrap();
        let begun = Instant::now();
        while fs::read_to_string(&output).unwrap().lines().count() < 3 && begun.elapsed() < Duration::from_secs(20) {
            sleep(Duration::from_millis(5));
        }
        assert!(
            Command::new("kill")
                .args([if round == "first" { "-INT" } else { "-TERM" }, &program.id().to_string()])
                .status()
                .unwrap()
                .success()
        );
        assert_eq!(program.wait().unwrap().code(), Some(0));
        let found = fs::read_to_string(&output).unwrap();
        let mut found: Vec<_> = found.lines().collect();
        found.sort();
        assert_eq!(found, [format!("clicks: {round}"), format!("orders: {round}"), "orders: tea".into()]);
    }
    assert_eq!(run("two_topics", &["localhost:1", "orders", "clicks", output.to_str().unwrap()]).0, 1);
}

#[test]
fn a_file_that_is_no_checkpoint_is_left_alone() {
    let file = scratch("foreign");
    fs::write(&file, "hello").unwrap();
    let (code, stdout, stderr) = run("checkpointed_worker", &["localhost", "orders", file.to_str().unwrap()]);
    assert!(code == 1 && stdout.is_empty() && stderr.ends_with("foreign: not a checkpoint\n"), "{stderr}");
}
