//! `validate`: judges a spare.

use super::{Context, Exit, Output, metadata};
use crate::cli::args::MetadataSource;
use crate::cli::args::validate::Validate;
use crate::cli::context::Usage;
use anyhow::Result;

pub(super) fn validate(context: &Context, args: &Validate, out: &mut Output) -> Result<Exit> {
    let Some(device) = &args.device else { return Err(Usage("name what to judge: --device DEV".into()).into()) };
    // With a slash it is a path, whatever it is called.
    let source = std::path::absolute(device)?.to_string_lossy().into_owned();
    metadata::check(context, &MetadataSource { source }, out)
}
