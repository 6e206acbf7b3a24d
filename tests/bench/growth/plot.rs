//! The curves as a picture, with a library that draws.

use std::error::Error;
use std::fs;
use std::path::Path;

use plotters::prelude::*;

use super::curve::Curve;

const COLUMNS: usize = 4;
const PANEL: (u32, u32) = (290, 230);

const OURS: RGBColor = RGBColor(31, 95, 191);
const PLAIN: RGBColor = RGBColor(140, 140, 140);

/// Cost of one over how many, a panel for each curve; both axes in powers of ten. Flat is good.
pub fn write(path: &Path, curves: &[Curve]) -> Result<(), Box<dyn Error>> {
    let rows = curves.len().div_ceil(COLUMNS);
    let (width, height) = (PANEL.0 * COLUMNS as u32, PANEL.1 * rows as u32);
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, (width, height)).into_drawing_area();
        root.fill(&WHITE)?;
        for (curve, area) in curves.iter().zip(root.split_evenly((rows, COLUMNS))) {
            panel(curve, &area)?;
        }
        root.present()?;
    }
    // As wide as the page that shows it.
    let fixed = format!(r#"width="{width}" height="{height}""#);
    fs::write(path, svg.replacen(&fixed, r#"width="100%""#, 1))?;
    Ok(())
}

fn panel<DB: DrawingBackend>(
    curve: &Curve,
    area: &DrawingArea<DB, plotters::coord::Shift>,
) -> Result<(), Box<dyn Error>>
where
    DB::ErrorType: 'static,
{
    let numbers = curve.points.iter().map(|point| point.number as f64);
    let (least, most) = numbers.fold((f64::INFINITY, 0.0_f64), |(least, most), n| (least.min(n), most.max(n)));
    let nanos = curve.points.iter().flat_map(|point| [Some(point.nanos), point.plain]).flatten();
    let (low, high) = nanos.fold((f64::INFINITY, 0.0_f64), |(low, high), n| (low.min(n), high.max(n)));
    // At least two powers of ten, so that a flat line looks flat.
    let (low, high) = (10_f64.powf(low.log10().floor()), 10_f64.powf(high.log10().ceil()));
    let high = high.max(low * 100.0);
    let title = format!("{} ({:.2})", curve.name, curve.exponent());
    let mut chart = ChartBuilder::on(area)
        .caption(title, ("sans-serif", 11))
        .margin(8)
        .x_label_area_size(24)
        .y_label_area_size(44)
        .build_cartesian_2d((least..most).log_scale(), (low..high).log_scale())?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .label_style(("sans-serif", 10))
        .x_label_formatter(&|n| format!("{n:.0}"))
        .y_label_formatter(&time)
        .draw()?;
    let line = |value: fn(&super::curve::Point) -> Option<f64>| {
        curve.points.iter().filter_map(move |point| Some((point.number as f64, value(point)?))).collect::<Vec<_>>()
    };
    for (points, colour) in [(line(|point| point.plain), PLAIN), (line(|point| Some(point.nanos)), OURS)] {
        chart.draw_series(LineSeries::new(points.clone(), colour.stroke_width(2)))?;
        chart.draw_series(points.iter().map(|&point| Circle::new(point, 3, colour.filled())))?;
    }
    Ok(())
}

fn time(nanos: &f64) -> String {
    match *nanos {
        n if n >= 1e6 => format!("{:.0} ms", n / 1e6),
        n if n >= 1e3 => format!("{:.0} µs", n / 1e3),
        n => format!("{n:.0} ns"),
    }
}
