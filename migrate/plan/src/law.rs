//! What isn't known beforehand: the rate of the link, and when the machine really dies.

/// How many rates stand for all that may be: the middles of as many equally likely parts.
const RATES: usize = 21;

/// Likewise of moments of death.
const DEATHS: usize = 16;

/// What a link may carry: a log-normal rate, as measured ones are.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LinkEstimate {
    /// In half of all cases it is more, in bytes per second.
    pub bytes_per_s: f64,
    /// The standard deviation of the rate's logarithm; 0 for a rate that is known.
    pub spread: f64,
}

impl LinkEstimate {
    /// Rates that are equally likely, lowest first.
    pub fn rates(&self) -> Vec<f64> {
        if self.spread == 0.0 || self.bytes_per_s == 0.0 {
            return vec![self.bytes_per_s];
        }
        (0..RATES).map(|at| self.quantile((at as f64 + 0.5) / RATES as f64)).collect()
    }

    /// The rate below which it is with this probability.
    pub fn quantile(&self, probability: f64) -> f64 {
        self.bytes_per_s * (self.spread * normal_quantile(probability)).exp()
    }

    /// What can be counted on in nine of ten cases.
    pub fn low(&self) -> f64 {
        self.quantile(0.1)
    }
}

/// When machines that were told to leave die.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KillLaw {
    /// At the deadline.
    AtDeadline,
    /// At any moment before it.
    Uniform,
    /// One in ten early, half of those within a tenth of the notice; the others at the deadline.
    EarlyTail,
}

impl KillLaw {
    /// All laws, by the words for them.
    pub const ALL: [(&'static str, Self); 3] =
        [("deadline", Self::AtDeadline), ("uniform", Self::Uniform), ("early", Self::EarlyTail)];

    /// Moments of death as parts of the notice, and how likely each is.
    pub fn deaths(self) -> Vec<(f64, f64)> {
        let middles = |count: usize| (0..count).map(move |at| (at as f64 + 0.5) / count as f64);
        match self {
            Self::AtDeadline => vec![(1.0, 1.0)],
            Self::Uniform => middles(DEATHS).map(|part| (part, 1.0 / DEATHS as f64)).collect(),
            // Exponential with that median, conditioned on coming before the deadline.
            Self::EarlyTail => {
                let rate = std::f64::consts::LN_2 / 0.1;
                let all = 1.0 - (-rate).exp();
                let early = middles(DEATHS).map(|part| (-(1.0 - part * all).ln() / rate, 0.1 / DEATHS as f64));
                early.chain([(1.0, 0.9)]).collect()
            }
        }
    }
}

/// The inverse of the normal distribution's cumulative function, by bisection: it is asked for a few dozen times a plan.
fn normal_quantile(probability: f64) -> f64 {
    let (mut low, mut high) = (-8.0_f64, 8.0_f64);
    for _ in 0..60 {
        let middle = low.midpoint(high);
        if normal(middle) < probability { low = middle } else { high = middle }
    }
    low.midpoint(high)
}

/// The normal distribution's cumulative function: Marsaglia's series, exact to the last digits that matter here.
fn normal(x: f64) -> f64 {
    let (mut sum, mut term, mut n) = (x, x, 1.0);
    while term.abs() > 1e-17 && n < 400.0 {
        n += 2.0;
        term *= x * x / n;
        sum += term;
    }
    0.5 + sum * (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_those_of_the_tables() {
        for (probability, expected) in [(0.5, 0.0), (0.1, -1.281_551_565_5), (0.975, 1.959_963_984_5), (0.001, -3.0902)]
        {
            assert!((normal_quantile(probability) - expected).abs() < 1e-4, "{probability}");
        }
    }

    #[test]
    fn rates_lie_around_the_median() {
        let link = LinkEstimate { bytes_per_s: 1e9, spread: 0.3 };
        let rates = link.rates();
        assert!(rates.is_sorted());
        assert!((rates[RATES / 2] / 1e9 - 1.0).abs() < 1e-9);
        assert_eq!(rates.iter().filter(|rate| **rate < link.low()).count(), 2, "a tenth of 21");
        assert_eq!(LinkEstimate { spread: 0.0, ..link }.rates(), [1e9]);
        assert_eq!(LinkEstimate { bytes_per_s: 0.0, ..link }.rates(), [0.0]);
    }

    #[test]
    fn each_law_is_a_distribution() {
        for (name, law) in KillLaw::ALL {
            let deaths = law.deaths();
            let sum: f64 = deaths.iter().map(|(_, probability)| probability).sum();
            assert!((sum - 1.0).abs() < 1e-9, "{name}");
            assert!(deaths.iter().all(|(part, _)| (0.0..=1.0).contains(part)), "{name}");
        }
        let early = KillLaw::EarlyTail.deaths();
        let soon: f64 = early.iter().filter(|(part, _)| *part < 0.1).map(|(_, probability)| probability).sum();
        assert!((soon - 0.05).abs() < 0.007, "{soon}");
    }
}
