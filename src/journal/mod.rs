//! What a run leaves on disk: its record, and the messages that could not be delivered. The formats of both are known
//! here and nowhere else.

mod folder;
mod line;
mod process;
mod progress;
mod record;
mod spare;
mod spill;

pub(crate) use self::{
    folder::{Folder, SHELTER},
    progress::{forget_progress, is_still, note_progress, progress},
    record::{
        Acknowledged, Delivery, Destination, Found, Identity, Ranges, Record, RecordFile, RunState,
        earlier_was_stored, host, in_seconds,
    },
    spare::keep_spare,
    spill::{DAMAGED, Leftovers, Spill, count_lines, files_in as spill_files_in},
};
