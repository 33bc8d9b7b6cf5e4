//! Every input of `tests/fuzz/corpus/` and of the vectors through its target, on a stable toolchain: what a fuzzer once
//! found stays found, and the targets themselves stay honest.
#![allow(clippy::unwrap_used, clippy::panic)]

use quorate_fuzz::{TARGETS, call};
use quorate_identity::base64url;
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = fs::read_dir(folder)
        .unwrap_or_else(|e| panic!("{}: {e}", folder.display()))
        .map(|file| file.unwrap().path())
        .collect();
    paths.sort();
    paths
}

#[test]
fn every_input_of_the_corpus_is_survived() {
    let corpus = root().join("tests/fuzz/corpus");
    let folders: BTreeSet<String> = files(&corpus)
        .iter()
        .map(|path| path.file_name().unwrap().to_str().unwrap().to_owned())
        .collect();
    let names: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(folders, names, "one folder per target");
    for name in names {
        let inputs = files(&corpus.join(&name));
        assert!(!inputs.is_empty(), "{name} has no input");
        for path in inputs {
            let bytes = fs::read(&path).unwrap();
            let survived = catch_unwind(AssertUnwindSafe(|| call(&name, &bytes)));
            assert!(survived.is_ok(), "{name}: {}", path.display());
        }
    }
}

/// The bytes of a vector's input: a text, or pieces.
fn bytes(input: &Value) -> Vec<u8> {
    let piece = |piece: &Value| match (&piece["text"], &piece["bytes"]) {
        (Value::String(text), _) => text.clone().into_bytes(),
        (_, Value::String(text)) => base64url::decode(text).unwrap(),
        _ => {
            let times = piece["repeat"]["times"].as_u64().unwrap();
            let text = piece["repeat"]["text"].as_str().unwrap();
            text.repeat(usize::try_from(times).unwrap()).into_bytes()
        }
    };
    match input {
        Value::String(text) => text.clone().into_bytes(),
        pieces => pieces.as_array().unwrap().iter().flat_map(piece).collect(),
    }
}

/// Inputs that the vectors give to the targets. `cargo xtask fuzz` writes them where libFuzzer begins.
fn seeds() -> BTreeMap<&'static str, Vec<(String, Vec<u8>)>> {
    let mut seeds: BTreeMap<&str, Vec<(String, Vec<u8>)>> = BTreeMap::new();
    for path in files(&root().join("schemas/v1/vectors")) {
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let vector: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        let Some(what) = vector["what"].as_str() else {
            continue;
        };
        let input = bytes(&vector["input"]);
        let payload = || {
            let middle = input.split(|byte| *byte == b'.').nth(1).unwrap_or_default();
            base64url::decode(std::str::from_utf8(middle).unwrap_or("=")).unwrap_or_default()
        };
        let chosen = |kind: u8| [&[kind][..], &payload()].concat();
        let mut add = |target, bytes: Vec<u8>| {
            seeds.entry(target).or_default().push((name.clone(), bytes));
        };
        match what {
            "frame" => add("frame", input),
            "bundle" => add("bundle", input),
            "ticket" => add("ticket", input),
            "did" | "peerId" => add("did", input),
            "stored" => add("stored", input),
            "invitation" | "join" | "receipt" | "call" | "card" => {
                let target = match what {
                    "join" => "join",
                    "receipt" => "receipt",
                    _ => "invitation",
                };
                add(target, payload());
                add("json", payload());
                add("jws", input);
            }
            "confirm" => add("statement", chosen(0)),
            "kem" => add("statement", chosen(1)),
            "ready" => add("statement", chosen(2)),
            "abort" => add("statement", chosen(3)),
            "cancel" => add("statement", chosen(4)),
            "hello" => add("statement", chosen(5)),
            "apply" => add("statement", chosen(6)),
            "whereabouts" => add("statement", chosen(7)),
            "pass" => add("statement", chosen(8)),
            _ => {}
        }
    }
    seeds
}

#[test]
fn every_vector_is_survived_by_its_target() {
    let seeds = seeds();
    assert!(seeds.len() >= 8, "{:?}", seeds.keys());
    for (target, inputs) in &seeds {
        for (name, input) in inputs {
            let survived = catch_unwind(AssertUnwindSafe(|| call(target, input)));
            assert!(survived.is_ok(), "{target}: {name}");
        }
    }
    if let Some(folder) = std::env::var_os("QUORATE_WRITE_SEEDS") {
        for (target, inputs) in seeds {
            let folder = Path::new(&folder).join(target);
            fs::create_dir_all(&folder).unwrap();
            for (name, input) in inputs {
                fs::write(folder.join(name), input).unwrap();
            }
        }
    }
}

/// A small generator, so that what is tried is the same every time.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound.max(1) as u64).unwrap()
    }
}

/// Changes a few places: a bit, a byte, a piece cut out, copied or put in.
fn mutated(input: &[u8], numbers: &mut Numbers) -> Vec<u8> {
    let mut bytes = input.to_vec();
    for _ in 0..=numbers.below(4) {
        let at = numbers.below(bytes.len() + 1);
        let length = numbers.below(9).min(bytes.len() - at);
        match numbers.below(5) {
            0 => bytes.truncate(at),
            1 => drop(bytes.drain(at..at + length)),
            2 => {
                let copy = bytes[at..at + length].to_vec();
                bytes.splice(at..at, copy);
            }
            3 => bytes.insert(at, numbers.next().to_le_bytes()[0]),
            _ => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << numbers.below(8);
                }
            }
        }
    }
    bytes
}

#[test]
fn inputs_near_those_of_the_corpus_are_survived() {
    let corpus = root().join("tests/fuzz/corpus");
    for (index, (name, _)) in (1..).zip(TARGETS) {
        let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(index));
        // Whole sessions take longer than readers.
        let rounds = match *name {
            "session" | "schedule" => 40,
            "guard_hello" | "join" | "receipt" | "statement" | "invitation" => 300,
            _ => 2000,
        };
        let inputs: Vec<Vec<u8>> = files(&corpus.join(name))
            .iter()
            .map(|path| fs::read(path).unwrap())
            .filter(|bytes| bytes.len() < 20_000)
            .collect();
        for round in 0..rounds {
            let input = mutated(&inputs[numbers.below(inputs.len())], &mut numbers);
            let survived = catch_unwind(AssertUnwindSafe(|| call(name, &input)));
            assert!(
                survived.is_ok(),
                "{name}, round {round}: {}",
                base64url::encode(&input)
            );
        }
    }
}
