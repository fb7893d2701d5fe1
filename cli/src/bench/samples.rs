//! Times of iterations, and what they come to.

use std::time::Duration;

use serde_json::{Value, json};

/// Times of iterations, sorted.
#[derive(Debug, Clone, Default)]
pub(crate) struct Samples(Vec<Duration>);

impl From<Vec<Duration>> for Samples {
    fn from(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        Self(times)
    }
}

impl Samples {
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// In microseconds; 0 of nothing.
    pub(crate) fn quantile_us(&self, quantile: f64) -> f64 {
        let at = (self.0.len().saturating_sub(1) as f64 * quantile).round() as usize;
        self.0.get(at).map_or(0.0, |time| time.as_nanos() as f64 / 1e3)
    }

    pub(crate) fn mean_us(&self) -> f64 {
        self.0.iter().sum::<Duration>().as_nanos() as f64 / 1e3 / self.0.len().max(1) as f64
    }

    pub(crate) fn json(&self) -> Value {
        let mean = self.mean_us();
        let square = |time: &Duration| (time.as_nanos() as f64 / 1e3 - mean).powi(2);
        let stdev = (self.0.iter().map(square).sum::<f64>() / self.0.len().max(1) as f64).sqrt();
        json!({
            "min": self.quantile_us(0.0), "p50": self.quantile_us(0.5), "p90": self.quantile_us(0.9),
            "p95": self.quantile_us(0.95), "p99": self.quantile_us(0.99), "p999": self.quantile_us(0.999),
            "max": self.quantile_us(1.0), "mean": mean, "stdev": stdev,
            "cv_pct": if mean > 0.0 { stdev / mean * 100.0 } else { 0.0 },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_of_the_sorted_times() {
        let samples = Samples::from([5, 1, 4, 2, 3].map(Duration::from_micros).to_vec());
        assert_eq!([0.0, 0.5, 0.99].map(|q| samples.quantile_us(q)), [1.0, 3.0, 5.0]);
        assert_eq!((samples.mean_us(), samples.json()["stdev"].as_f64()), (3.0, Some(2.0_f64.sqrt())));
        assert_eq!(Samples::default().json()["p50"], 0.0);
    }
}
