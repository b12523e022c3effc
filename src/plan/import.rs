//! Planning an import.
