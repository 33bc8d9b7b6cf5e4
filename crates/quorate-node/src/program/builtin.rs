//! The programs that come with quorate, for a first run and for tests.
//!
//! Their text is part of the binary and is handed over to Python as it is: the digest of a
//! session covers exactly these bytes. They are also complete MPyC programs for a plain
//! `python PROGRAM -M3`.

/// A program that comes with quorate.
#[derive(Debug)]
pub struct Builtin {
    /// The name on the command line.
    pub name: &'static str,
    /// The name of its file under `examples/`.
    pub file: &'static str,
    /// One line for people.
    pub description: &'static str,
    /// Its Python source.
    pub source: &'static str,
    /// The public arguments when the user gives none.
    pub public_args: &'static [&'static str],
    /// The private arguments of each party of a demo, by index, over again for more parties;
    /// empty if the program has no private input. `{folder}` stands for the folder where the
    /// caller puts [`Builtin::demo_files`].
    pub demo_args: &'static [&'static [&'static str]],
    /// Private files of a demo: name and content.
    pub demo_files: &'static [(&'static str, &'static str)],
    /// How to see that a result is right.
    pub check: &'static str,
}

/// All of them; the first is the default.
pub const ALL: &[Builtin] = &[
    Builtin {
        name: "secretsanta",
        file: "secretsanta.py",
        description: "draw Secret Santa lots that nobody knows and nobody draws for themselves",
        source: include_str!("../../../../examples/secretsanta.py"),
        public_args: &["4"],
        demo_args: &[],
        demo_files: &[],
        check: "each line is n and a list of 0 to n-1 in an order where no number stands at its own place; all parties print the same lists",
    },
    Builtin {
        name: "mean-income",
        file: "mean_income.py",
        description: "the mean income over private files of all parties",
        source: include_str!("../../../../examples/mean_income.py"),
        public_args: &["--year", "2026"],
        demo_args: &[
            &["--data", "{folder}/income-0.csv"],
            &["--data", "{folder}/income-1.csv"],
            &["--data", "{folder}/income-2.csv"],
        ],
        demo_files: &[
            (
                "income-0.csv",
                include_str!("../../../../examples/data/income-0.csv"),
            ),
            (
                "income-1.csv",
                include_str!("../../../../examples/data/income-1.csv"),
            ),
            (
                "income-2.csv",
                include_str!("../../../../examples/data/income-2.csv"),
            ),
        ],
        check: "with three parties and their demo files: people 19, mean income 2026: 31575",
    },
    Builtin {
        name: "vote",
        file: "vote.py",
        description: "a secret ballot: yes or no, only the result is opened",
        source: include_str!("../../../../examples/vote.py"),
        public_args: &[],
        demo_args: &[&["--vote", "yes"], &["--vote", "no"], &["--vote", "yes"]],
        demo_files: &[],
        check: "with three parties and their demo votes: yes 2, no 1",
    },
];

impl Builtin {
    /// The program of this name.
    pub fn find(name: &str) -> Option<&'static Self> {
        ALL.iter().find(|builtin| builtin.name == name)
    }

    /// The private arguments of demo party `index`, with its files in `folder`.
    pub fn demo_args_of(&self, index: u16, folder: &str) -> Vec<String> {
        let all = self.demo_args;
        let own = all
            .iter()
            .cycle()
            .nth(usize::from(index) % all.len().max(1));
        own.into_iter()
            .flat_map(|own| own.iter())
            .map(|word| word.replace("{folder}", folder))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_by_name_only() {
        assert_eq!(
            Builtin::find("mean-income").map(|builtin| builtin.file),
            Some("mean_income.py")
        );
        assert!(Builtin::find("mean_income.py").is_none());
    }

    #[test]
    fn demo_arguments_go_round_and_name_the_folder() {
        let income = &ALL[1];
        assert_eq!(income.demo_args_of(2, "/d"), ["--data", "/d/income-2.csv"]);
        assert_eq!(income.demo_args_of(4, "/d"), ["--data", "/d/income-1.csv"]);
        assert!(ALL[0].demo_args_of(3, "/d").is_empty());
    }

    #[test]
    fn the_expected_mean_follows_from_the_demo_files() {
        let incomes: Vec<u64> = ALL[1]
            .demo_files
            .iter()
            .flat_map(|(_, text)| text.lines())
            .filter_map(|line| line.strip_prefix("2026,")?.parse().ok())
            .collect();
        let count = incomes.len() as u64;
        let mean = (incomes.iter().sum::<u64>() + count / 2) / count;
        assert!(
            ALL[1]
                .check
                .ends_with(&format!("people {count}, mean income 2026: {mean}"))
        );
    }
}
