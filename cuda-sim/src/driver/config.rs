//! What a test asks of the driver, in one line of text.

use crate::profile::Profile;

/// `devices=h100,a100 memory=1073741824 seed=7 fail_alloc=3 fail_launch=2 lose_after=100 races=off`; every part may be left
/// out, and `devices=` alone means that there is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Config {
    pub(crate) devices: Vec<&'static Profile>,
    /// Bytes of each card's memory, where it is to have less than its profile.
    pub(crate) memory: Option<u64>,
    pub(crate) seed: u64,
    /// The how-manieth allocation fails, from 1.
    pub(crate) fail_alloc: Option<u64>,
    /// The how-manieth launch fails when it runs.
    pub(crate) fail_launch: Option<u64>,
    /// After how many commands the card is lost.
    pub(crate) lose_after: Option<u64>,
    pub(crate) races: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            devices: Profile::find("h100").into_iter().collect(),
            memory: None,
            seed: 1,
            fail_alloc: None,
            fail_launch: None,
            lose_after: None,
            races: true,
        }
    }
}

impl Config {
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut config = Self::default();
        for part in text.split_whitespace() {
            let Some((key, value)) = part.split_once('=') else {
                return Err(format!("`{part}` is no `key=value`"));
            };
            let number =
                || value.parse::<u64>().map_err(|_| format!("`{value}` is no number for `{key}`"));
            match key {
                "devices" => {
                    let keys = value.split(',').filter(|key| !key.is_empty());
                    let find = |key: &str| {
                        Profile::find(key).ok_or_else(|| format!("no card is called `{key}`"))
                    };
                    config.devices = keys.map(find).collect::<Result<_, _>>()?;
                }
                "memory" => config.memory = Some(number()?),
                "seed" => config.seed = number()?,
                "fail_alloc" => config.fail_alloc = Some(number()?),
                "fail_launch" => config.fail_launch = Some(number()?),
                "lose_after" => config.lose_after = Some(number()?),
                "races" => config.races = value != "off",
                other => return Err(format!("nothing is called `{other}`")),
            }
        }
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_may_be_left_out_and_are_checked() {
        assert_eq!(Config::parse("").unwrap(), Config::default());
        let config = Config::parse("devices=a100,rtx4090 seed=9 races=off fail_alloc=2").unwrap();
        assert_eq!(config.devices.iter().map(|d| d.arch()).collect::<Vec<_>>(), [80, 89]);
        assert_eq!((config.seed, config.races, config.fail_alloc), (9, false, Some(2)));
        assert!(Config::parse("devices=").unwrap().devices.is_empty());
        for wrong in ["devices=k80", "seed=x", "speed=1", "seed"] {
            assert!(Config::parse(wrong).is_err(), "{wrong}");
        }
    }
}
