//! Finding bad and slow sectors.
//!
//! Invariants:
//! - reading is all that happens to a disk here;
//! - only a medium error, or an EIO that repeats while known-good sectors read, makes a sector bad; anything else that
//!   goes wrong ends the scan, and says nothing about any sector.

pub mod act;
pub mod checkpoint;
pub mod conduct;
pub mod neighbours;
pub mod pace;
pub mod pass;
pub mod probe;
pub mod regions;
pub mod run;
pub mod survey;
