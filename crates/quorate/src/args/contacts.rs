//! `quorate contacts`: what can be written.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Subcommand};

const EXAMPLES: &str = "\
Examples:
  quorate contacts add sud did:key:z6Mk…         from now on `--with sud`
  quorate contacts group registry +sud +ost      from now on `--with @registry`
  quorate contacts                               everybody you know

A name in [brackets] is the one that you gave. What somebody calls themselves stands in quotes: anybody may claim anything.";

#[derive(Debug, ClapArgs)]
#[command(before_help = EXAMPLES)]
pub struct ContactsArgs {
    #[command(subcommand)]
    pub action: Option<ContactsAction>,
}

#[derive(Debug, Subcommand)]
pub enum ContactsAction {
    /// List everybody you know (the default).
    List,
    /// Give a name to a DID, or to the issuer of a contact card.
    Add {
        /// The name that you give: letters, digits, `-`, `_` and `.`.
        name: String,
        /// A DID, or the file of a card that `quorate id card` wrote (`-` for stdin). A card of a
        /// contact that you have is added to it.
        #[arg(value_name = "DID|CARDFILE")]
        who: String,
    },
    /// Show all that is known of one contact.
    Show {
        /// The name that you gave, or a DID.
        name: String,
    },
    /// Change the name that you gave.
    Rename {
        /// The name now.
        name: String,
        /// The new name.
        to: String,
    },
    /// Forget a contact.
    Remove {
        /// The name that you gave.
        name: String,
    },
    /// Add contacts to a group (`+a`) or take them out (`-b`); without any, show the group.
    Group {
        /// The name of the group.
        name: String,
        /// `+NAME` or `-NAME`, as many as you like.
        #[arg(value_name = "+NAME|-NAME", num_args = 0..)]
        changes: Vec<String>,
        /// The same as `-NAME`, also for names of one letter that is an option.
        #[arg(long, value_name = "NAME")]
        minus: Vec<String>,
    },
    /// Write all contacts and groups, to take them to another machine.
    Export {
        /// Where to; stdout without it.
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Take over what is new in an exported file; what you have stays as it is.
    Import {
        /// The exported file.
        file: PathBuf,
    },
}
