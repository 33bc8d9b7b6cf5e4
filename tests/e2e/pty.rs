//! A person at a terminal: a command with a pseudo terminal of its own, what it shows, what is typed.

use std::{
    fs::{File, OpenOptions},
    io::{Read, Write},
    os::unix::fs::OpenOptionsExt,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Condvar, Mutex},
    thread,
    time::Instant,
};

use rustix::{
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{Winsize, tcsetwinsize},
};

use crate::world::{PATIENCE, QUORATE, World};

/// Wide enough that no line of quorate is broken.
const COLUMNS: u16 = 250;

/// What the terminal showed so far, without the sequences that colour or move.
#[derive(Default)]
struct Shown {
    text: String,
    closed: bool,
}

/// A running command and its terminal.
pub struct Terminal {
    child: Child,
    keyboard: File,
    shown: Arc<(Mutex<Shown>, Condvar)>,
}

impl Terminal {
    /// Starts `words` as the leader of a session that has the new terminal.
    pub fn start(words: &[String], prepare: impl FnOnce(&mut Command)) -> Self {
        let keyboard = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)
            .expect("a pseudo terminal");
        grantpt(&keyboard).unwrap();
        unlockpt(&keyboard).unwrap();
        let size = Winsize {
            ws_row: 50,
            ws_col: COLUMNS,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(&keyboard, size).unwrap();
        let name = ptsname(&keyboard, Vec::new()).unwrap();
        let screen = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc_noctty())
            .open(name.to_str().unwrap())
            .unwrap();
        // `setsid --ctty` makes its standard input the terminal of the session that it leads.
        let mut command = Command::new("setsid");
        command
            .args(["--ctty", "--wait"])
            .args(words)
            .stdin(Stdio::from(screen.try_clone().unwrap()))
            .stdout(Stdio::from(screen.try_clone().unwrap()))
            .stderr(Stdio::from(screen))
            .env("TERM", "xterm")
            .env("NO_COLOR", "1");
        prepare(&mut command);
        let child = command
            .spawn()
            .expect("setsid of util-linux is needed: sudo apt install util-linux");
        drop(command);
        let keyboard = File::from(keyboard);
        let shown = Arc::default();
        let terminal = Self {
            child,
            keyboard,
            shown,
        };
        terminal.watch();
        terminal
    }

    fn watch(&self) {
        let mut screen = self.keyboard.try_clone().unwrap();
        let shown = Arc::clone(&self.shown);
        thread::spawn(move || {
            let mut plain = Plain::default();
            let mut buffer = [0; 4096];
            // The last holder of the other side is gone when reading fails.
            while let Ok(count @ 1..) = screen.read(&mut buffer) {
                let (state, changed) = &*shown;
                plain.push(&buffer[..count], &mut state.lock().unwrap().text);
                changed.notify_all();
            }
            shown.0.lock().unwrap().closed = true;
            shown.1.notify_all();
        });
    }

    /// Types this.
    pub fn type_in(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).unwrap();
    }

    /// Waits until `found` finds something in what was shown; panics with `what` when it never does.
    pub fn wait_for<T>(&self, what: &str, mut found: impl FnMut(&str) -> Option<T>) -> T {
        let start = Instant::now();
        let (state, changed) = &*self.shown;
        let mut shown = state.lock().unwrap();
        loop {
            if let Some(result) = found(&shown.text) {
                return result;
            }
            let left = PATIENCE.checked_sub(start.elapsed());
            let Some(left) = left.filter(|_| !shown.closed) else {
                panic!("{what:?} was not shown:\n{}", shown.text);
            };
            shown = changed.wait_timeout(shown, left).unwrap().0;
        }
    }

    /// What was shown so far.
    pub fn shown(&self) -> String {
        self.shown.0.lock().unwrap().text.clone()
    }

    /// Waits for the end; what was shown in all, and how it ended.
    pub fn end(&mut self) -> (ExitStatus, String) {
        let (state, changed) = &*self.shown;
        let shown = state.lock().unwrap();
        let (shown, waited) = changed
            .wait_timeout_while(shown, PATIENCE, |s| !s.closed)
            .unwrap();
        assert!(!waited.timed_out(), "still running:\n{}", shown.text);
        let text = shown.text.clone();
        drop(shown);
        (self.child.wait().unwrap(), text)
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // `setsid` waits for what it started, which ends with its terminal.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `O_NOCTTY`: the test itself must not get this terminal.
fn libc_noctty() -> i32 {
    i32::try_from(rustix::fs::OFlags::NOCTTY.bits()).unwrap()
}

/// Removes control sequences (ECMA-48) from what a terminal gets; a carriage return begins a line.
#[derive(Default)]
struct Plain {
    bytes: Vec<u8>,
    sequence: Option<Vec<u8>>,
}

impl Plain {
    fn push(&mut self, bytes: &[u8], text: &mut String) {
        for &byte in bytes {
            if let Some(sequence) = &mut self.sequence {
                sequence.push(byte);
                let complete = match sequence.as_slice() {
                    [b'[' | b']'] => false,
                    [b'[', .., last] => (0x40..=0x7e).contains(last),
                    [b']', .., last] => *last == 7,
                    _ => true,
                };
                if complete {
                    self.sequence = None;
                }
            } else {
                match byte {
                    0x1b => self.sequence = Some(Vec::new()),
                    b'\r' => self.bytes.push(b'\n'),
                    _ => self.bytes.push(byte),
                }
            }
        }
        // Half a character waits for its rest.
        let valid = match std::str::from_utf8(&self.bytes) {
            Ok(all) => all.len(),
            Err(e) if e.error_len().is_none() => e.valid_up_to(),
            Err(_) => self.bytes.len(),
        };
        let rest = self.bytes.split_off(valid);
        text.push_str(&String::from_utf8_lossy(&self.bytes));
        self.bytes = rest;
    }
}

#[test]
fn a_terminal_shows_plain_text_and_takes_keys() {
    let words = [
        "sh",
        "-c",
        "printf 'a\\033[31mb\\033[0m? '; read x < /dev/tty; echo \"got $x\"",
    ];
    let words: Vec<String> = words.iter().map(|w| (*w).to_owned()).collect();
    let mut terminal = Terminal::start(&words, |_| {});
    terminal.wait_for("the question", |text| text.contains("ab? ").then_some(()));
    terminal.type_in("yes\n");
    let (status, text) = terminal.end();
    assert!(status.success());
    assert!(text.contains("got yes"), "{text}");
}

/// One party at a terminal of its own, with one more variable in its environment.
pub fn person(world: &World, index: usize, words: &[&str], variable: (&str, &str)) -> Terminal {
    let home = world.home(index);
    let mut all: Vec<String> = [QUORATE, "--home", home.to_str().unwrap()]
        .map(str::to_owned)
        .into();
    all.extend(words.iter().map(|w| (*w).to_owned()));
    Terminal::start(&all, |command| {
        command
            .env_remove("QUORATE_HOME")
            .env_remove("RUST_LOG")
            .env(variable.0, variable.1);
    })
}

pub fn shows(terminal: &Terminal, what: &str) {
    shows_times(terminal, what, 1);
}

/// What is typed before a question is shown is no answer to it, so tests wait for each.
pub fn shows_times(terminal: &Terminal, what: &str, times: usize) {
    terminal.wait_for(what, |shown| {
        (shown.matches(what).count() >= times).then_some(())
    });
}
