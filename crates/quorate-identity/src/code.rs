//! The one list of refusal codes: what users see, scripts test and documents explain.

/// Declares the codes once, so that text, exit code, meaning and next step cannot drift apart.
macro_rules! codes {
    ($($variant:ident $text:literal $exit:literal $meaning:literal $next:literal;)*) => {
        /// Why something was refused or failed. The text form (`E_…`) and the exit code are stable.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum Code { $(#[doc = $meaning] $variant,)* }

        impl Code {
            /// All codes, in the order of the documentation.
            pub const ALL: &'static [Code] = &[$(Code::$variant,)*];

            /// The stable text form, such as `E_SIG`.
            pub const fn as_str(self) -> &'static str { match self { $(Code::$variant => $text,)* } }

            /// The exit code of a command that ends with this refusal.
            pub const fn exit_code(self) -> u8 { match self { $(Code::$variant => $exit,)* } }

            /// What it means, in one sentence.
            pub const fn meaning(self) -> &'static str { match self { $(Code::$variant => $meaning,)* } }

            /// What the user can do next.
            pub const fn next_step(self) -> &'static str { match self { $(Code::$variant => $next,)* } }
        }

        impl std::str::FromStr for Code {
            type Err = UnknownCode;
            fn from_str(text: &str) -> Result<Self, UnknownCode> {
                match text { $($text => Ok(Code::$variant),)* _ => Err(UnknownCode) }
            }
        }
    };
}

codes! {
    Format "E_FORMAT" 73 "The bytes are not a well-formed statement of this protocol." "Ask the sender for a fresh copy; do not edit the file.";
    Header "E_HEADER" 73 "The signed header names something this protocol does not allow." "Ask the sender which program made it.";
    Alg "E_ALG" 73 "The signature algorithm is not Ed25519." "Ask the sender to sign with an Ed25519 key.";
    Kid "E_KID" 73 "The signing key does not belong to the issuer, or may not be used for this." "Ask the sender to sign with a key of the DID that it names.";
    Sig "E_SIG" 73 "The signature does not match: the content was changed or forged." "Do not use it; tell the sender by another channel.";
    Time "E_TIME" 72 "It is expired, or not valid yet." "Ask the organizer for a new invitation, or correct this machine's clock.";
    NotInvited "E_NOT_INVITED" 73 "You are not one of the parties of this invitation." "Give the organizer the DID that `quorate id show` prints.";
    Replay "E_REPLAY" 72 "This invitation was already used or cancelled." "Ask the organizer for a new invitation.";
    Limit "E_LIMIT" 73 "A limit of the protocol is exceeded." "Ask the organizer to stay within the limits in docs/protocol.md.";
    NotMember "E_NOT_MEMBER" 73 "Somebody who is not a party tried to take part." "Nothing to do: it was refused; the session goes on.";
    Split "E_SPLIT" 73 "The organizer sent different invitations to different parties." "Do not go on; compare the digests with the other parties.";
    Missing "E_MISSING" 71 "A party did not join in time." "Ask that party to run `quorate join`, then start again.";
    AlreadyJoined "E_ALREADY_JOINED" 73 "This identity already takes part from another place." "Stop the other one, or use another identity.";
    IdentityElsewhere "E_IDENTITY_ELSEWHERE" 73 "Somebody else uses your identity in this session." "If it was not you, your key is stolen: make a new identity and tell the others.";
    Equivocation "E_EQUIVOCATION" 73 "A party signed two different statements where only one may be." "Keep the evidence; do not run a session with that party.";
    DuplicateKey "E_DUPLICATE_KEY" 73 "A party reuses a key or nonce of another party." "Do not run a session with that party.";
    Epoch "E_EPOCH" 73 "A join has an impossible epoch." "Ask that party to correct its clock.";
    Stale "E_STALE" 73 "A statement belongs to another session or an older epoch." "Nothing to do: it was ignored.";
    RosterMismatch "E_ROSTER_MISMATCH" 73 "Parties do not hold the same roster." "Compare the members that differ; then start again.";
    Threshold "E_THRESHOLD" 73 "The threshold does not protect the inputs." "Use at least three parties and a threshold of at least 1 and below half.";
    Program "E_PROGRAM" 73 "Your program is not the program of this session." "Fetch the version that was agreed, and point --program at it.";
    Runtime "E_RUNTIME" 73 "The parties' MPyC or word size differ." "Install the same MPyC version everywhere.";
    Controller "E_CONTROLLER" 73 "One controller stands behind more parties than the threshold allows." "Ask the organizer for independent parties.";
    Pq "E_PQ" 73 "A party offers no post-quantum key although it is required." "Ask that party to update quorate.";
    Key "E_KEY" 73 "A public key is malformed or weak." "Ask that party to join again.";
    Kem "E_KEM" 73 "A key share does not fit this pair or roster." "Ask that party to join again.";
    NotIssuer "E_NOT_ISSUER" 73 "Somebody without the right tried to end the session." "Nothing to do: it was ignored.";
    PidSpoof "E_PID_SPOOF" 73 "A party's program claimed to be another party." "Do not run a session with that party before you know why.";
    Peer "E_PEER" 73 "A network peer is not who it should be." "Nothing to do: the connection was closed.";
    Version "E_VERSION" 73 "The other side speaks another version of the protocol." "Install the same version of quorate.";
    Overflow "E_OVERFLOW" 73 "One party sent more than the protocol allows." "Do not run a session with that party.";
    DidResolve "E_DID_RESOLVE" 73 "A DID could not be resolved." "Check the DID for typing errors.";
    NoPath "E_NO_PATH" 71 "A party could not be reached." "Check that it has started and that both are in one network; give its address with --at.";
    PartyLeft "E_PARTY_LEFT" 75 "A party left or fell silent." "Ask that party what happened, then start again.";
    ProgramFailed "E_PROGRAM_FAILED" 75 "A party's program ended with an error." "See that party's error output, then start again.";
    Cancelled "E_CANCELLED" 75 "The organizer cancelled the session." "Ask the organizer.";
    Left "E_LEFT" 75 "A party left the session." "Ask that party, then start again.";
    Interrupted "E_INTERRUPTED" 130 "Stopped by the user." "Start again when you are ready.";
    Declined "E_DECLINED" 74 "A person declined." "Nothing to do.";
    NoPython "E_NO_PYTHON" 76 "No usable Python was found." "Install Python 3.10 or newer, or give its path with --python.";
    NoMpyc "E_NO_MPYC" 76 "Python has no MPyC." "Install it: python3 -m pip install mpyc==0.11";
    Userns "E_USERNS" 76 "This machine allows no private namespaces." "Use another attach mode.";
    Port "E_PORT" 76 "No network socket could be opened." "Check the firewall and the limits of this machine.";
    Address "E_ADDRESS" 76 "A network address is unusable." "Check the address.";
    Clock "E_CLOCK" 76 "This machine's clock is wrong." "Correct the clock.";
    Disk "E_DISK" 76 "A file could not be written." "Free space, or make the folder writable; --home chooses another folder.";
    State "E_STATE" 76 "A file or folder of quorate is damaged or unsafe." "Follow the hint, or choose another folder with --home.";
    Ticket "E_TICKET" 2 "The ticket is not complete, or has a typing error." "Copy it again, or use the link or the QR code.";
    Call "E_CALL" 73 "What the inviter serves is not the call that the ticket names." "Do not apply; ask the inviter for a new ticket by another channel.";
    Full "E_FULL" 72 "No seat is free any more." "Ask the inviter to invite you again.";
    NotAdmitted "E_NOT_ADMITTED" 74 "The inviter did not admit you." "Ask the inviter.";
    Sealed "E_SEALED" 73 "It was sealed for somebody else, or was changed on the way." "Give the sender your card: quorate id card";
    Contact "E_CONTACT" 2 "There is no such contact or group, or the name is taken." "See quorate contacts.";
    Record "E_RECORD" 73 "The record of a session is incomplete, altered or mixed." "Ask another party for its copy of the record.";
    NoSession "E_NO_SESSION" 2 "No such session is known here." "See quorate status.";
    Engine "E_ENGINE" 76 "The engine of this session cannot be run on this machine." "Install the engine, or choose another one with --engine.";
    Policy "E_POLICY" 77 "A rule set on this machine forbids it." "Change the option or the policy that the message names.";
    NotListed "E_NOT_LISTED" 74 "A relay serves only whom its operator listed." "Ask its operator to list your DID and name it with --relay-pass, or use another relay.";
    Usage "E_USAGE" 2 "The command line is wrong." "See quorate --help.";
    Internal "E_INTERNAL" 70 "quorate itself failed." "Please report it with the output of quorate -v.";
}

/// The text is not a code of this list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("unknown refusal code")]
pub struct UnknownCode;

impl std::fmt::Display for Code {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form_round_trips_and_is_unique() {
        let mut seen = std::collections::BTreeSet::new();
        for code in Code::ALL {
            assert_eq!(code.as_str().parse(), Ok(*code));
            assert!(seen.insert(code.as_str()), "{code} stands twice");
        }
        assert_eq!("E_NOTHING".parse::<Code>(), Err(UnknownCode));
    }
}
