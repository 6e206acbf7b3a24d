//! The example `checkpointed_worker`, killed again and again.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};

use tank_client::Checkpoint;
use tank_client::broker::Broker;

use common::example::{example, run, scratch};
use common::rng::Rng;
use common::watch::within;

const PARTITIONS: u16 = 3;
const KILLS: usize = 200;

/// Appends to each partition until it has `more` messages that no run has reached.
fn append(broker: &Broker, reached: &BTreeMap<u16, u64>, more: u64) {
    for partition in 0..PARTITIONS {
        let wanted = reached.get(&partition).copied().unwrap_or(1) + more;
        for end in (broker.high_water_mark("orders", partition)..wanted).step_by(100) {
            let payloads: Vec<_> = (1..=100).map(|n| format!("{partition}-{}", end + n)).collect();
            broker.append_payloads("orders", partition, &payloads);
        }
    }
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
    within(120, || {
        let broker = Broker::start().unwrap();
        broker.create_topic("orders", PARTITIONS);
        let addr = broker.addr().to_string();
        let file = scratch("worker");
        let mut rng = Rng::new(7);
        let mut command = example("checkpointed_worker");
        command.args([&addr, "orders", file.to_str().unwrap()]);

        // Next number by partition: as saved, and as worked on by any run.
        let mut saved = BTreeMap::new();
        let mut reached: BTreeMap<u16, u64> = BTreeMap::new();
        let (mut repeated, mut idle, mut saves) = (0, 0, 0);
        for _ in 0..KILLS {
            // More than the run is waited for, so that it never has to wait itself.
            append(&broker, &reached, 1_000);
            let mut worker = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
            let mut output = worker.stdout.take().unwrap();
            // Dies when it has shown so much, wherever it is then; now and then before it shows anything.
            let mut shown = vec![0; rng.pick(&[0, 1, 1_000, 7_000])];
            output.read_exact(&mut shown).unwrap();
            // Whoever reads the file meanwhile finds it whole.
            (0..rng.below(100)).for_each(|_| drop(Checkpoint::open(&file).unwrap()));
            worker.kill().unwrap();
            worker.wait().unwrap();
            output.read_to_end(&mut shown).unwrap();

            let done = done(&shown);
            idle += usize::from(done.is_empty());
            for (&partition, seqs) in &done {
                let begin = saved.get(&partition).copied().unwrap_or(1);
                assert!(
                    seqs.iter().copied().eq(begin..begin + seqs.len() as u64),
                    "begins with what was saved, no holes"
                );
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
                saves += usize::from(saved.insert(position.partition, next) != Some(next));
            }
        }
        println!("{idle} of {KILLS} killed before any work, {saves} times further, {repeated} messages repeated");
        assert!(idle > 0 && saves > KILLS / 4 && repeated > 0, "kills at the same place test little");

        // The rest, without interruption, until it is asked to end.
        append(&broker, &reached, 10_000);
        let marks: Vec<u64> = (0..PARTITIONS).map(|partition| broker.high_water_mark("orders", partition)).collect();
        let mut worker = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut output = BufReader::new(worker.stdout.take().unwrap());
        let mut shown = Vec::new();
        let mut left: BTreeSet<_> =
            (0..PARTITIONS).map(|p| format!("{p}\t{0}\t{p}-{0}\n", marks[usize::from(p)])).collect();
        while !left.is_empty() {
            let begin = shown.len();
            output.read_until(b'\n', &mut shown).unwrap();
            left.remove(str::from_utf8(&shown[begin..]).unwrap());
        }
        assert!(signal(&worker, "-TERM").success());
        assert_eq!(worker.wait().unwrap().code(), Some(0));
        let rest = done(&shown);
        for (partition, &mark) in (0..).zip(&marks) {
            let begin = saved.get(&partition).copied().unwrap_or(1);
            assert!(rest.get(&partition).into_iter().flatten().copied().eq(begin..=mark), "partition {partition}");
        }
        let end = Checkpoint::open(&file).unwrap();
        let ends: Vec<u64> = end.positions().iter().map(|position| position.seq - 1).collect();
        assert_eq!(ends, marks);
    });
}

fn signal(program: &Child, signal: &str) -> ExitStatus {
    Command::new("kill").args([signal, &program.id().to_string()]).status().unwrap()
}

#[test]
fn two_topics_stop_on_ctrl_c_and_go_on() {
    within(120, || {
        let broker = Broker::start().unwrap();
        broker.create_topic("orders", 2);
        broker.create_topic("clicks", 1);
        let file = scratch("two-topics");
        let addr = broker.addr().to_string();
        for round in ["first", "second"] {
            broker.append_payloads("orders", 1, &[round, "tea"]);
            broker.append_payloads("clicks", 0, &[round]);
            let mut command = example("two_topics");
            command.args([&addr, "orders", "clicks", file.to_str().unwrap()]);
            let mut program = command.stdout(Stdio::piped()).spawn().unwrap();
            let mut lines = BufReader::new(program.stdout.take().unwrap()).lines().map(Result::unwrap);
            let mut found: Vec<String> = lines.by_ref().take(3).collect();
            assert!(signal(&program, if round == "first" { "-INT" } else { "-TERM" }).success());
            assert_eq!(program.wait().unwrap().code(), Some(0));
            found.extend(lines);
            found.sort();
            assert_eq!(found, [format!("clicks: {round}"), format!("orders: {round}"), "orders: tea".into()]);
        }
        assert_eq!(run("two_topics", &["localhost:1", "orders", "clicks", file.to_str().unwrap()]).0, 1);
    });
}

#[test]
fn a_file_that_is_no_checkpoint_is_left_alone() {
    let file = scratch("foreign");
    fs::write(&file, "hello").unwrap();
    let (code, stdout, stderr) = run("checkpointed_worker", &["localhost", "orders", file.to_str().unwrap()]);
    assert!(code == 1 && stdout.is_empty() && stderr.ends_with("foreign: not a checkpoint\n"), "{stderr}");
}
