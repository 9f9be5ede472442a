//! Whether a graph's nodes went where the target wants them.

use std::collections::BTreeMap;

use crate::library::Nodes;
use crate::provider::{Need, Provider, ProviderName};
use crate::{Error, Result};

/// How many nodes each provider was given.
pub(super) fn count_nodes(nodes: &Nodes) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for ((provider, _), count) in nodes {
        *counts.entry(provider.clone()).or_default() += count;
    }
    counts
}

/// Whether more of a graph than the target allows went elsewhere than to its first provider: an error where that is
/// required, else a warning.
pub(super) fn check_fallback(first: &Provider, allowed: Option<f64>, nodes: Option<&Nodes>) -> Result<Option<String>> {
    let wanted = first.name;
    let Some(nodes) = nodes else {
        let told = "allow_fallback is not checked: only ONNX Runtime 1.24 or newer tells where nodes go; safelight place \
                    measures it";
        return Ok(allowed.map(|_| told.to_owned()));
    };
    let mut elsewhere: Vec<_> = nodes.iter().filter(|((provider, _), _)| provider != wanted.as_str()).collect();
    let (total, fallen) = (nodes.values().sum::<usize>(), elsewhere.iter().map(|(_, count)| **count).sum::<usize>());
    let share = fallen as f64 / total.max(1) as f64;
    if wanted == ProviderName::CPU || fallen == 0 || (fallen < total && allowed.is_none_or(|allowed| share <= allowed))
    {
        return Ok(None);
    }
    elsewhere.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    let named =
        elsewhere.iter().take(5).map(|((provider, operator), count)| format!("{count} {operator} to {provider}"));
    let bound = allowed.map_or(String::new(), |allowed| format!(", and allow_fallback is {allowed}"));
    let told = format!(
        "{fallen} of {total} nodes did not go to {wanted}{bound}: {}; it may lack these operators, their types or free \
         axes: try another precision, fixed shapes, or allow it",
        named.collect::<Vec<_>>().join(", ")
    );
    match first.need {
        Need::Required => Err(Error::library(told)),
        Need::Optional => Ok(Some(told)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    fn provider(name: &str, need: Need) -> Provider {
        Provider::plain(ProviderName::try_from(name.to_owned()).unwrap(), need)
    }

    /// What is told where 1 Gather of 10 nodes went to the CPU.
    fn told(need: Need, allow_fallback: Option<f64>, on_first: usize) -> Result<Option<String>> {
        let first = provider("openvino", need);
        let at = |provider: &str, operator: &str| (provider.to_owned(), operator.to_owned());
        let mut nodes = Nodes::from([(at("cpu", "Gather"), 1)]);
        nodes.extend((on_first > 0).then(|| (at("openvino", "Conv"), on_first)));
        check_fallback(&first, allow_fallback, Some(&nodes))
    }

    #[test]
    fn more_than_the_allowed_share_elsewhere_is_an_error_or_a_warning() {
        assert_eq!(told(Need::Required, None, 9).unwrap(), None, "nothing was forbidden");
        assert_eq!(told(Need::Required, Some(0.1), 9).unwrap(), None);
        let error = told(Need::Required, Some(0.05), 9).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Library);
        let expected = "1 of 10 nodes did not go to openvino, and allow_fallback is 0.05: 1 Gather to cpu";
        assert!(error.to_string().contains(expected), "{error}");
        assert!(told(Need::Optional, Some(0.05), 9).unwrap().unwrap().contains(expected));
    }

    #[test]
    fn a_provider_that_took_nothing_is_never_passed_over() {
        assert!(told(Need::Required, None, 0).unwrap_err().to_string().contains("1 of 1 nodes did not go to openvino"));
        assert!(told(Need::Optional, None, 0).unwrap().is_some());
        let cpu = provider("cpu", Need::Required);
        assert_eq!(check_fallback(&cpu, Some(0.0), Some(&Nodes::new())).unwrap(), None);
    }

    #[test]
    fn an_older_library_cannot_tell_and_says_so() {
        let first = provider("openvino", Need::Required);
        assert_eq!(check_fallback(&first, None, None).unwrap(), None);
        assert!(check_fallback(&first, Some(0.1), None).unwrap().unwrap().contains("safelight place"));
    }
}
