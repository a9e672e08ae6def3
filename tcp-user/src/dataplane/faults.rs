//! `--faults`: what is to go wrong, as one writes it.

use super::tap::Faults;
use std::str::FromStr;

/// Which faults, and the seed that chooses the frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FaultPlan {
    /// How often what goes wrong.
    pub faults: Faults,
    /// The same seed does the same again.
    pub seed: u64,
}

impl FromStr for FaultPlan {
    type Err = String;

    /// `loss=1%,duplicate=0.5%,reorder=5%,seed=7`, each of them once or not at all.
    fn from_str(text: &str) -> Result<Self, String> {
        let mut plan = Self::default();
        let mut seen = Vec::new();
        for item in text.split(',') {
            let (name, value) = item
                .split_once('=')
                .ok_or_else(|| format!("`{item}` is not NAME=VALUE"))?;
            if seen.contains(&name) {
                return Err(format!("`{name}` stands there twice"));
            }
            seen.push(name);
            match name {
                "loss" => plan.faults.loss = odds(value)?,
                "duplicate" => plan.faults.duplicate = odds(value)?,
                "reorder" => plan.faults.reorder = odds(value)?,
                "seed" => plan.seed = value.parse().map_err(|e| format!("seed={value}: {e}"))?,
                _ => return Err(format!("`{name}` (loss, duplicate, reorder or seed)")),
            }
        }
        Ok(plan)
    }
}

/// Per cent to parts of 2^16.
fn odds(text: &str) -> Result<u16, String> {
    let number = text
        .strip_suffix('%')
        .ok_or_else(|| format!("`{text}` is not in per cent, as 1% is"))?;
    let percent: f64 = number.parse().map_err(|e| format!("`{text}`: {e}"))?;
    if !(0.0..=90.0).contains(&percent) {
        return Err(format!("`{text}` is not between 0% and 90%"));
    }
    Ok((percent / 100.0 * 65_536.0).round() as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_read() {
        let plan: FaultPlan = "loss=1%,reorder=50%,seed=7".parse().expect("good");
        let faults = Faults {
            loss: 655,
            duplicate: 0,
            reorder: 32_768,
        };
        assert_eq!(plan, FaultPlan { faults, seed: 7 });
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, names) in [
            ("loss", "loss"),
            ("loss=1", "per cent"),
            ("loss=91%", "91%"),
            ("loss=x%", "x%"),
            ("drop=1%", "drop"),
            ("loss=1%,loss=2%", "twice"),
            ("seed=-1", "seed"),
        ] {
            let error = text.parse::<FaultPlan>().expect_err(text);
            assert!(error.contains(names), "{text}: {error}");
        }
    }
}
