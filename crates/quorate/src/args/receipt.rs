//! `receipt`: the records of ended sessions.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Subcommand, ValueEnum};

#[derive(Debug, ClapArgs)]
pub struct ReceiptArgs {
    #[command(subcommand)]
    pub action: Option<ReceiptAction>,
}

#[derive(Debug, Subcommand)]
pub enum ReceiptAction {
    /// The sessions whose records are kept here (the default).
    List,
    /// Who signed what in a session, verified anew, and what is missing.
    Show {
        /// Title of the session, or the beginning of its digest; the last one if not given.
        session: Option<String>,
    },
    /// Write the record of a session, for somebody else to check with `quorate verify`.
    Export {
        /// Title of the session, or the beginning of its digest; the last one if not given.
        session: Option<String>,
        /// The form.
        #[arg(long, value_enum, default_value_t = ExportFormat::Json, value_name = "FORM")]
        format: ExportFormat,
        /// Where to; stdout if not given. The file is made private (0600) and must not exist.
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Add what another party's copy of a record has and ours lacks.
    Add {
        /// The copy; `-` for stdin.
        file: PathBuf,
    },
}

/// Form of an exported record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ExportFormat {
    /// The record: everything that was signed, with the DID documents.
    Json,
    /// The statements of the last run, one compact JWS a line, the invitation first: for other tools.
    Jwt,
    /// One page for people, without scripts. It proves nothing by itself.
    Html,
}
