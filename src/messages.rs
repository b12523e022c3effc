//! What can be the matter with a setup, by code: the words of `status`, and the section MESSAGES of dm-remap(7).
//!
//! Invariants: a code keeps its meaning for good, and is never used again; codes are in order of the table, the gravest
//! kinds of trouble first.

/// A thing that can be the matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Trouble {
    /// I/O to the device waits.
    Suspended,
    /// The live table is not the one that the metadata gives.
    Unsettled,
    /// No spare has metadata that can be used.
    Unreadable,
    /// A device of the setup did not answer in time.
    NoAnswer,
    /// A spare is not there.
    SpareMissing,
    /// A spare is there, and out of service: marked as failed, unreadable or stale.
    SpareFailed,
    /// A spare is being emptied.
    SpareDraining,
    /// Sectors answer EIO until they are written.
    Held,
    /// Data is gone, and nobody has acknowledged that.
    Lost,
    /// The room on the spares will not last.
    RoomShort,
    /// Some of the five copies on a spare are damaged or old.
    CopiesLagging,
    /// A disk of the setup is judged to be failing.
    DiskFailing,
    /// What can be read is older than what was committed last: a spare that has it is away.
    NewestAway,
}

/// What is to be said of a trouble.
#[derive(Clone, Copy, Debug)]
pub struct Message {
    /// The code, for good.
    pub code: &'static str,
    /// What it is called in a heading.
    pub title: &'static str,
    /// What has happened, and what that means for the data.
    pub meaning: &'static str,
    /// What to do, with commands. NAME stands for the setup.
    pub remedy: &'static str,
}

impl Trouble {
    /// All of them, in order of their codes.
    pub const ALL: [Trouble; 13] = [
        Trouble::Suspended,
        Trouble::Unsettled,
        Trouble::Unreadable,
        Trouble::NoAnswer,
        Trouble::SpareMissing,
        Trouble::SpareFailed,
        Trouble::SpareDraining,
        Trouble::Held,
        Trouble::Lost,
        Trouble::RoomShort,
        Trouble::CopiesLagging,
        Trouble::DiskFailing,
        Trouble::NewestAway,
    ];

    /// What is to be said of it.
    pub fn message(self) -> Message {
        let [code, title, meaning, remedy] = self.words();
        Message { code, title, meaning, remedy }
    }

    /// Code, title, meaning and remedy.
    fn words(self) -> [&'static str; 4] {
        match self {
            Trouble::Suspended => [
                "DMR-01",
                "I/O to the device waits",
                "The setup is suspended: reads and writes wait, none is lost. A command that moves sectors does that for some \
                 milliseconds; if it lasts, the command was killed and its guardian, too.",
                "If no dm-remap command is at work, run 'dm-remap recover NAME'. It goes by the newest map on the spares.",
            ],
            Trouble::Unsettled => [
                "DMR-02",
                "The table is not the one that the metadata gives",
                "A command was interrupted between its commit and the swap of the table, or a commit could not be settled and \
                 the sectors in question answer EIO; or somebody changed the table with dmsetup. Nothing is changed until this is settled.",
                "Run 'dm-remap recover NAME'. If it refuses because it does not know the table, compare 'dmsetup table NAME' with \
                 'dm-remap map NAME --format dmsetup'.",
            ],
            Trouble::Unreadable => [
                "DMR-03",
                "No spare has metadata that can be used",
                "The device works as its table says, as long as it is up. Once it is taken down it could not be brought up again.",
                "Do not deactivate it and do not reboot. Copy the data off. 'dm-remap metadata check DEV' says what is wrong with each \
                 copy, 'dm-remap metadata backup --list' which backups there are.",
            ],
            Trouble::NoAnswer => [
                "DMR-04",
                "A device does not answer",
                "A read of the metadata has not come back in time: a disk that hangs, or one below it that is suspended. Nothing else is known.",
                "Look at the kernel log (dmesg) and at the cable, the controller and the disk. 'dm-remap list' shows the devices without \
                 reading them.",
            ],
            Trouble::SpareMissing => [
                "DMR-05",
                "A spare is missing",
                "The sectors that live on it answer EIO; the others have all their data. What was written while it is away is not on it.",
                "Attach it, and say 'dm-remap spare readd NAME SPARE'. If it is gone for good, 'dm-remap spare replace NAME OLD NEW' with \
                 --give-up-unreadable puts another in its place; what lived there is then lost and answers EIO until it is written.",
            ],
            Trouble::SpareFailed => [
                "DMR-06",
                "A spare has failed",
                "It did not take a commit, or what is on it cannot be read or is old. Its extents are served as long as it reads; \
                 it gets no new ones.",
                "Look at its cable and its health. 'dm-remap spare readd NAME SPARE' takes it back, 'dm-remap spare evacuate NAME SPARE' moves \
                 its extents to the others, 'dm-remap spare replace NAME OLD NEW' puts another in its place.",
            ],
            Trouble::SpareDraining => [
                "DMR-07",
                "A spare is being emptied",
                "It gets no new extents. What still lives on it is safe.",
                "Go on with the command that was begun (evacuate, remove, replace), or take the spare back with \
                 'dm-remap spare readd NAME SPARE'.",
            ],
            Trouble::Held => [
                "DMR-08",
                "Sectors answer EIO until they are written",
                "They could not be read when they were moved. Reads fail, as they did on the disk; a write makes them ordinary. \
                 Nothing was put in their place.",
                "Restore the files that 'dm-remap status NAME' names from a backup. Free space needs nothing; what is in metadata of a file system is \
                 for its fsck.",
            ],
            Trouble::Lost => [
                "DMR-09",
                "Data was lost",
                "Sectors were filled with zeros, given up, or left on main, as the policy or an option said, or were written since they were held. \
                 They are on the list until a person has seen them.",
                "Check the files that were hit, then run 'dm-remap acknowledge NAME'.",
            ],
            Trouble::RoomShort => [
                "DMR-10",
                "The room on the spares will not last",
                "When it is used up, bad sectors that are found stay where they are. At the present rate that is soon.",
                "Add a spare: 'dm-remap spare add NAME DEV'. 'dm-remap compact NAME' brings free space together. A disk that fails so fast should be copied \
                 and replaced.",
            ],
            Trouble::CopiesLagging => [
                "DMR-11",
                "Some copies of the metadata are damaged or old",
                "Each spare holds five, and one is enough. The others are whole.",
                "'dm-remap metadata check NAME' says which; 'dm-remap metadata repair NAME' writes them anew, and so does the next commit. If it \
                 comes back, the spare has bad sectors there: replace it.",
            ],
            Trouble::DiskFailing => [
                "DMR-12",
                "A disk is failing",
                "By its own account, or by what it has counted and what scans and moves have shown. Nothing is lost by that yet, and it may \
                 last; but disks in that state do not get better.",
                "'dm-remap health NAME' has the reasons. If it is main, copy the data off now, and replace it. If it is a spare, \
                 'dm-remap spare replace NAME OLD NEW' moves what lives on it to another, live.",
            ],
            Trouble::NewestAway => [
                "DMR-13",
                "The newest commit is on a spare that is away",
                "The spares that can be read are older than what was committed last while the setup is up: what is shown is what they \
                 say. The device works as its table says. Commands that change the setup are refused, so that there are never two truths.",
                "Attach the spare again, and give 'dm-remap spare readd'. If it is gone for good, 'dm-remap recover NAME' gives its commit up \
                 and goes on with what can be read.",
            ],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_numbered_in_order_and_say_what_to_do() {
        for (number, trouble) in Trouble::ALL.into_iter().enumerate() {
            let message = trouble.message();
            assert_eq!(message.code, format!("DMR-{:02}", number + 1));
            assert!(!message.title.ends_with('.') && message.meaning.ends_with('.') && message.remedy.ends_with('.'));
            assert!(message.remedy.contains("'dm-remap "), "{}: no command to run", message.code);
        }
    }
}
