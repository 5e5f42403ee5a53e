//! Counters, gauges and histograms that are scraped by Prometheus and pushed over OTLP alike.
//!
//! A counter or a gauge is one atomic that both sides read. A histogram is recorded twice when OTLP is on,
//! because OpenTelemetry has no histogram that is read on demand.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::metrics::Meter;
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::{counter, gauge, histogram};
use prometheus_client::registry::{Registry, Unit};

type Labels = Vec<(&'static str, String)>;
type CounterCell = counter::Counter<u64, AtomicU64>;
type GaugeCell = gauge::Gauge<f64, AtomicU64>;

/// A number that only grows.
#[derive(Clone, Debug)]
pub struct Counter(CounterCell);

impl Counter {
    /// One more.
    pub fn inc(&self) {
        self.0.inc();
    }

    /// `count` more.
    pub fn add(&self, count: u64) {
        self.0.inc_by(count);
    }

    /// Follows a total that is kept elsewhere, such as a link core's counters. A smaller total is
    /// ignored, so the counter stays monotone. One writer only.
    pub fn follow(&self, total: u64) {
        self.0.inc_by(total.saturating_sub(self.0.get()));
    }

    /// The count so far.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.get()
    }
}

/// A number that rises and falls.
#[derive(Clone, Debug)]
pub struct Gauge(GaugeCell);

impl Gauge {
    /// Sets the value.
    pub fn set(&self, value: f64) {
        self.0.set(value);
    }

    /// Sets the value to a count. Counts above 2^53 lose their lowest bits.
    pub fn set_count(&self, count: u64) {
        self.0.set(count as f64);
    }

    /// Sets the value to seconds.
    pub fn set_duration(&self, span: Duration) {
        self.0.set(span.as_secs_f64());
    }

    /// Adds, or subtracts when negative.
    pub fn add(&self, change: f64) {
        self.0.inc_by(change);
    }

    /// The value.
    #[must_use]
    pub fn get(&self) -> f64 {
        self.0.get()
    }
}

/// How often which values were seen.
#[derive(Clone, Debug)]
pub struct Histogram {
    scraped: histogram::Histogram,
    pushed: Option<(opentelemetry::metrics::Histogram<f64>, Arc<[KeyValue]>)>,
}

impl Histogram {
    /// Counts one value.
    pub fn observe(&self, value: f64) {
        self.scraped.observe(value);
        if let Some((histogram, labels)) = &self.pushed {
            histogram.record(value, labels);
        }
    }

    /// Counts one span of time, in seconds.
    pub fn observe_duration(&self, span: Duration) {
        self.observe(span.as_secs_f64());
    }
}

/// Counters of one name whose label value is known only at run time.
///
/// Every value stays for the life of the process: use it for names from code, never from clients.
#[derive(Clone, Debug)]
pub(crate) struct Counters(Labelled<Counter>);

/// Gauges of one name whose label value is known only at run time; see [`Counters`].
#[derive(Clone, Debug)]
pub(crate) struct Gauges(Labelled<Gauge>);

impl Counters {
    pub(crate) fn of(&self, value: &str) -> Counter {
        self.0.of(value)
    }
}

impl Gauges {
    pub(crate) fn of(&self, value: &str) -> Gauge {
        self.0.of(value)
    }
}

/// Declares instruments: each name once, with its help text and unit.
pub(crate) struct Declarations {
    registry: Registry,
    meter: Option<Meter>,
}

/// Name, help text and unit of an instrument. The registry adds the prefix, the unit and `_total`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Named {
    pub name: &'static str,
    pub help: &'static str,
    pub unit: Option<&'static str>,
}

impl Declarations {
    pub(crate) fn new(meter: Option<Meter>) -> Self {
        Self { registry: Registry::with_prefix(PREFIX), meter }
    }

    pub(crate) fn into_registry(self) -> Registry {
        self.registry
    }

    pub(crate) fn counter(&mut self, named: Named) -> Counter {
        let cell = self.register(named, CounterCell::default());
        push_counter(self.meter.as_ref(), named, &Labels::new(), &cell);
        Counter(cell)
    }

    /// One counter for each of `values`, told apart by the label `key`.
    pub(crate) fn counters<const N: usize>(
        &mut self,
        named: Named,
        key: &'static str,
        values: [&str; N],
    ) -> [Counter; N] {
        self.counter_grid(named, key, values, "", [""]).map(|[counter]| counter)
    }

    /// One counter for each pair of `rows` and `columns`.
    pub(crate) fn counter_grid<const R: usize, const C: usize>(
        &mut self,
        named: Named,
        row_key: &'static str,
        rows: [&str; R],
        column_key: &'static str,
        columns: [&str; C],
    ) -> [[Counter; C]; R] {
        let family = self.register(named, Family::<Labels, CounterCell>::default());
        rows.map(|row| {
            columns.map(|column| {
                let labels = labels([(row_key, row), (column_key, column)]);
                let cell = family.get_or_create_owned(&labels);
                push_counter(self.meter.as_ref(), named, &labels, &cell);
                Counter(cell)
            })
        })
    }

    pub(crate) fn counters_by(&mut self, named: Named, key: &'static str) -> Counters {
        let family = self.register(named, Family::<Labels, CounterCell>::default());
        let meter = self.meter.clone();
        Counters(Labelled::new(key, move |labels| {
            let cell = family.get_or_create_owned(labels);
            push_counter(meter.as_ref(), named, labels, &cell);
            Counter(cell)
        }))
    }

    pub(crate) fn gauge(&mut self, named: Named) -> Gauge {
        let cell = self.register(named, GaugeCell::default());
        push_gauge(self.meter.as_ref(), named, &Labels::new(), &cell);
        Gauge(cell)
    }

    /// One gauge for each of `values`, told apart by the label `key`.
    pub(crate) fn gauges<const N: usize>(
        &mut self,
        named: Named,
        key: &'static str,
        values: [&str; N],
    ) -> [Gauge; N] {
        let gauges = self.gauges_by(named, key);
        values.map(|value| gauges.of(value))
    }

    pub(crate) fn gauges_by(&mut self, named: Named, key: &'static str) -> Gauges {
        let family = self.register(named, Family::<Labels, GaugeCell>::default());
        let meter = self.meter.clone();
        Gauges(Labelled::new(key, move |labels| {
            let cell = family.get_or_create_owned(labels);
            push_gauge(meter.as_ref(), named, labels, &cell);
            Gauge(cell)
        }))
    }

    pub(crate) fn histogram(&mut self, named: Named, buckets: &'static [f64]) -> Histogram {
        let scraped = self.register(named, Buckets(buckets).new_metric());
        let pushed = self.pushed_histogram(named, buckets).map(|histogram| (histogram, [].into()));
        Histogram { scraped, pushed }
    }

    pub(crate) fn histograms<const N: usize>(
        &mut self,
        named: Named,
        key: &'static str,
        values: [&str; N],
        buckets: &'static [f64],
    ) -> [Histogram; N] {
        let family = self.register(
            named,
            Family::<Labels, histogram::Histogram, Buckets>::new_with_constructor(Buckets(buckets)),
        );
        let pushed = self.pushed_histogram(named, buckets);
        values.map(|value| {
            let labels = labels([(key, value)]);
            Histogram {
                scraped: family.get_or_create_owned(&labels),
                pushed: pushed.clone().map(|histogram| (histogram, key_values(&labels).into())),
            }
        })
    }

    fn pushed_histogram(
        &self,
        named: Named,
        buckets: &'static [f64],
    ) -> Option<opentelemetry::metrics::Histogram<f64>> {
        let builder = self
            .meter
            .as_ref()?
            .f64_histogram(pushed_name(named))
            .with_description(named.help)
            .with_boundaries(buckets.to_vec());
        Some(match named.unit {
            Some(unit) => builder.with_unit(unit_symbol(unit)).build(),
            None => builder.build(),
        })
    }

    fn register<M: prometheus_client::registry::Metric + Clone>(&mut self, named: Named, metric: M) -> M {
        match named.unit {
            Some(unit) => {
                let unit = Unit::Other(unit.to_owned());
                self.registry.register_with_unit(named.name, named.help, unit, metric.clone());
            }
            None => self.registry.register(named.name, named.help, metric.clone()),
        }
        metric
    }
}

const PREFIX: &str = "parhelion";

/// Instruments by label value, each made at its first use.
struct Labelled<I>(Arc<LabelledInner<I>>);

struct LabelledInner<I> {
    key: &'static str,
    make: Box<dyn Fn(&Labels) -> I + Send + Sync>,
    known: Mutex<BTreeMap<String, I>>,
}

impl<I: Clone> Labelled<I> {
    fn new(key: &'static str, make: impl Fn(&Labels) -> I + Send + Sync + 'static) -> Self {
        Self(Arc::new(LabelledInner { key, make: Box::new(make), known: Mutex::default() }))
    }

    fn of(&self, value: &str) -> I {
        let mut known = self.0.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(instrument) = known.get(value) {
            return instrument.clone();
        }
        let instrument = (self.0.make)(&labels([(self.0.key, value)]));
        known.insert(value.to_owned(), instrument.clone());
        instrument
    }
}

impl<I> Clone for Labelled<I> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<I> std::fmt::Debug for Labelled<I> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Labelled").field("key", &self.0.key).finish_non_exhaustive()
    }
}

#[derive(Clone)]
struct Buckets(&'static [f64]);

impl MetricConstructor<histogram::Histogram> for Buckets {
    fn new_metric(&self) -> histogram::Histogram {
        histogram::Histogram::new(self.0.iter().copied())
    }
}

/// Labels without those whose key is empty: a row of counters is a grid whose columns have no key.
fn labels<const N: usize>(pairs: [(&'static str, &str); N]) -> Labels {
    pairs.into_iter().filter(|(key, _)| !key.is_empty()).map(|(key, value)| (key, value.to_owned())).collect()
}

fn key_values(labels: &Labels) -> Vec<KeyValue> {
    labels.iter().map(|(key, value)| KeyValue::new(*key, value.clone())).collect()
}

fn push_counter(meter: Option<&Meter>, named: Named, labels: &Labels, cell: &CounterCell) {
    let Some(meter) = meter else { return };
    let (cell, labels) = (cell.clone(), key_values(labels));
    let builder = meter
        .u64_observable_counter(pushed_name(named))
        .with_description(named.help)
        .with_callback(move |observer| observer.observe(cell.get(), &labels));
    // Instruments of one name and kind are one instrument with several callbacks.
    let _ = match named.unit {
        Some(unit) => builder.with_unit(unit_symbol(unit)).build(),
        None => builder.build(),
    };
}

fn push_gauge(meter: Option<&Meter>, named: Named, labels: &Labels, cell: &GaugeCell) {
    let Some(meter) = meter else { return };
    let (cell, labels) = (cell.clone(), key_values(labels));
    let builder = meter
        .f64_observable_gauge(pushed_name(named))
        .with_description(named.help)
        .with_callback(move |observer| observer.observe(cell.get(), &labels));
    let _ = match named.unit {
        Some(unit) => builder.with_unit(unit_symbol(unit)).build(),
        None => builder.build(),
    };
}

/// Names as Prometheus has them, without `_total`: a collector that serves Prometheus adds that by itself.
fn pushed_name(named: Named) -> String {
    match named.unit {
        Some(unit) => format!("{PREFIX}_{}_{unit}", named.name),
        None => format!("{PREFIX}_{}", named.name),
    }
}

/// The UCUM symbol that OpenTelemetry wants for a unit that Prometheus spells out.
fn unit_symbol(unit: &'static str) -> &'static str {
    match unit {
        "seconds" => "s",
        "bytes" => "By",
        "ratio" => "1",
        other => other,
    }
}
