//! `xfer plan`: what a departure would cost, and what of it would be saved.

mod options;
mod sweep;
mod text;

use std::path::Path;
use std::time::Instant;

use xfer_plan::{Departure, Planned, plan};

use crate::failure::Failure;
use crate::output::{print, print_json};

pub(crate) use options::Options;

pub(crate) fn run(options: &Options) -> Result<(), Failure> {
    if let Some(options::Further::Sweep(options)) = &options.further {
        return sweep::run(options);
    }
    let departure = options.departure()?;
    let began = Instant::now();
    let planned = plan(&departure).map_err(Failure::failed)?;
    let plan_ms = began.elapsed().as_secs_f64() * 1e3;
    if let Some(file) = &options.html {
        write_html(file, options, &departure, &planned)?;
    }
    if options.json {
        print_json(&xfer_plan::document(&departure, &planned, plan_ms));
    } else {
        print(&text::about(&options.title(), &departure, &planned, plan_ms));
    }
    Ok(())
}

fn write_html(file: &Path, options: &Options, departure: &Departure, planned: &Planned) -> Result<(), Failure> {
    let page = xfer_plan::page(&options.title(), departure, planned);
    std::fs::write(file, page).map_err(|cause| Failure::failed(format!("can't write {}: {cause}", file.display())))
}
