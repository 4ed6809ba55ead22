//! Line charts side by side as SVG: a logarithmic axis to the right, a linear one from 0 upwards that all share.

use std::fmt::Write;

const WIDTH: f64 = 260.0;
const HEIGHT: f64 = 260.0;
const LEFT: f64 = 56.0;
const TOP: f64 = 48.0;
const GAP: f64 = 36.0;
/// Told apart also by those who see few colours.
const COLOURS: [&str; 5] = ["#0072b2", "#d55e00", "#56b4e9", "#e69f00", "#009e73"];

/// One quantity.
pub(crate) struct Line {
    /// Its name.
    pub(crate) name: &'static str,
    /// From left to right.
    pub(crate) points: Vec<(f64, f64)>,
}

/// One chart.
pub(crate) struct Panel {
    /// What grows to the right.
    pub(crate) name: &'static str,
    /// What is shown.
    pub(crate) lines: Vec<Line>,
}

/// The whole picture.
pub(crate) fn draw(title: &str, panels: &[Panel]) -> String {
    let points = || panels.iter().flat_map(|panel| &panel.lines).flat_map(|line| &line.points);
    let highest = points().fold(1.0, |most: f64, point| most.max(point.1));
    let step = step(highest / 5.0);
    let most = (highest / step).ceil() * step;
    let width = LEFT + panels.len() as f64 * (WIDTH + GAP);
    let height = TOP + HEIGHT + 84.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"{LEFT}\" y=\"24\" font-size=\"15\">{title}</text>\n"
    );
    for (number, panel) in panels.iter().enumerate() {
        let left = LEFT + number as f64 * (WIDTH + GAP);
        grid(&mut svg, left, most, step, number == 0);
        chart(&mut svg, panel, left, most);
    }
    let lines = panels.first().map_or(&[][..], |panel| &panel.lines);
    let room = (width - LEFT) / lines.len().max(1) as f64;
    for (number, line) in lines.iter().enumerate() {
        let (x, y, colour) =
            (LEFT + number as f64 * room, TOP + HEIGHT + 66.0, COLOURS[number % COLOURS.len()]);
        let _ =
            writeln!(svg, "<rect x=\"{x}\" y=\"{}\" width=\"18\" height=\"4\" fill=\"{colour}\"/>", y - 6.0);
        let _ = writeln!(svg, "<text x=\"{}\" y=\"{y}\">{}</text>", x + 24.0, line.name);
    }
    svg.push_str("</svg>\n");
    svg
}

/// A round number not below `least`: 1, 2 or 5 times a power of ten.
fn step(least: f64) -> f64 {
    let power = 10f64.powf(least.log10().floor());
    [1.0, 2.0, 5.0, 10.0].into_iter().map(|n| n * power).find(|n| *n >= least).unwrap_or(power)
}

fn grid(svg: &mut String, left: f64, most: f64, step: f64, named: bool) {
    for number in 0..=(most / step).round() as u32 {
        let value = f64::from(number) * step;
        let y = TOP + HEIGHT * (1.0 - value / most);
        let right = left + WIDTH;
        let _ = writeln!(svg, "<path d=\"M{left} {y:.1}H{right}\" stroke=\"#ddd\"/>");
        if named {
            let _ = writeln!(
                svg,
                "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{value}</text>",
                left - 8.0,
                y + 4.0
            );
        }
    }
}

fn chart(svg: &mut String, panel: &Panel, left: f64, most: f64) {
    let all = || panel.lines.iter().flat_map(|line| &line.points).map(|point| point.0.log10());
    let (low, high) = (all().fold(f64::MAX, f64::min), all().fold(f64::MIN, f64::max));
    let inset = 16.0;
    let x =
        |value: f64| left + inset + (WIDTH - 2.0 * inset) * (value.log10() - low) / (high - low).max(1e-9);
    let y = |value: f64| TOP + HEIGHT * (1.0 - value / most);
    let below = TOP + HEIGHT;
    for (value, _) in panel.lines.first().map_or(&[][..], |line| &line.points) {
        let _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{value}</text>",
            x(*value),
            below + 18.0
        );
    }
    let middle = left + WIDTH / 2.0;
    let _ = writeln!(
        svg,
        "<text x=\"{middle}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
        below + 38.0,
        panel.name
    );
    for (number, line) in panel.lines.iter().enumerate() {
        let colour = COLOURS[number % COLOURS.len()];
        let places: Vec<String> =
            line.points.iter().map(|(at, value)| format!("{:.1},{:.1}", x(*at), y(*value))).collect();
        let path = places.join(" ");
        let _ = writeln!(
            svg,
            "<polyline points=\"{path}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>"
        );
        for place in places {
            let (x, y) = place.split_once(',').unwrap_or_default();
            let _ = writeln!(svg, "<circle cx=\"{x}\" cy=\"{y}\" r=\"3\" fill=\"{colour}\"/>");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_point_lies_inside_and_the_axis_has_round_numbers() {
        assert_eq!((step(0.11), step(180.0), step(500.0), step(6.0)), (0.2, 200.0, 500.0, 10.0));
        let line = Line { name: "cost", points: vec![(1.0, 10.0), (1_000.0, 700.0)] };
        let svg = draw("title", &[Panel { name: "peers", lines: vec![line] }]);
        let circles: Vec<&str> = svg.lines().filter(|line| line.starts_with("<circle")).collect();
        assert_eq!(circles.len(), 2);
        assert!(circles[0].contains("cx=\"72.0\"") && circles[1].contains("cx=\"300.0\""), "{circles:?}");
        assert!(svg.contains(">800</text>") && svg.ends_with("</svg>\n"));
    }
}
