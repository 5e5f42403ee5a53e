//! The W3C `traceparent` header.

use actix_web::HttpRequest;
use parhelion_types::TraceContext;

const SAMPLED: u8 = 1;

/// The trace that a request belongs to. A header that cannot be read is passed over, as the W3C demands.
pub(crate) fn of(request: &HttpRequest) -> TraceContext {
    let header = request.headers().get("traceparent").and_then(|value| value.to_str().ok());
    header.and_then(parse).unwrap_or_default()
}

/// `version-trace-span-flags` in lower-case hexadecimal digits (W3C Trace Context section 3.2).
fn parse(header: &str) -> Option<TraceContext> {
    let mut fields = header.split('-');
    let mut field = |digits: usize| {
        let field = fields.next()?;
        let is_hex = field.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        (field.len() == digits && is_hex).then_some(field)
    };
    let version = field(2)?;
    let trace = u128::from_str_radix(field(32)?, 16).ok()?;
    let span = u64::from_str_radix(field(16)?, 16).ok()?;
    let flags = u8::from_str_radix(field(2)?, 16).ok()?;
    // Later versions may have more fields; this one may not.
    let is_known = version == "00" && fields.next().is_none() || !matches!(version, "00" | "ff");
    (is_known && trace != 0 && span != 0).then_some(TraceContext {
        trace,
        span,
        sampled: flags & SAMPLED != 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_the_standard_is_read_and_broken_ones_are_not() {
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let context = TraceContext {
            trace: 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736,
            span: 0x00f0_67aa_0ba9_02b7,
            sampled: true,
        };
        assert_eq!(parse(good), Some(context));
        assert_eq!(parse(&good.replace("-01", "-00")), Some(TraceContext { sampled: false, ..context }));
        assert_eq!(parse(&format!("{}-later", good.replacen("00", "01", 1))), Some(context));
        let zero = "0".repeat(32);
        for bad in [
            "",
            "00",
            &good[..54],
            &format!("{good}-more"),
            &good.replacen("00", "ff", 1),
            &good.to_uppercase(),
            &good.replace("4bf92f3577b34da6a3ce929d0e0e4736", &zero),
            &good.replace("00f067aa0ba902b7", "+0f067aa0ba902b7"),
        ] {
            assert_eq!(parse(bad), None, "{bad:?}");
        }
    }
}
