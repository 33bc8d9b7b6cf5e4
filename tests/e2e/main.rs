//! The real binary, real processes, real MPyC: what a user sees, and what an attacker gets.
//!
//! All traffic is on loopback (`--local`) or in a namespace that the test makes.

#![allow(clippy::unwrap_used, clippy::panic)]

mod again;
mod bad_input;
mod capture;
mod contacts;
mod demo;
mod docs;
mod exec;
mod failure;
mod faults;
mod first_contact;
mod full_disk;
mod guides;
mod identity;
mod insider;
mod json;
mod lab;
mod lan;
mod life;
mod pty;
mod records;
mod relay;
mod returning;
mod secrets;
mod send_program;
mod terms;
mod three_shells;
mod world;
