//! What the schema costs a write: the way of a typical Job from bytes to an admitted object, and a
//! status update, with the generated definition of Job. `cargo bench -p apiserver --bench schema`.

use std::hint::black_box;
use std::path::Path;

use apiserver::schema::decode::{Format, decode};
use apiserver::schema::managed_fields::{self, Writer};
use apiserver::schema::{FieldValidation, KindSchema, Part, crd, yaml};
use criterion::{Criterion, criterion_group, criterion_main};
use serde_json::{Value, json};
use std::sync::Arc;

const JOB: &str = r#"{"apiVersion":"gctl.dev/v1","kind":"Job","metadata":{"name":"train-1","namespace":"default",
"labels":{"team":"vision","app":"resnet"},"annotations":{"note":"a typical job"},"finalizers":["gctl.dev/release"]},
"spec":{"queue":"research","priority":10,"command":["python","train.py","--epochs","90","--lr","0.1"],
"env":[{"name":"SEED","value":"1"},{"name":"DATA","value":"/data/imagenet"}],"workingDir":"/work",
"resources":{"cpu":"4","memory":"16Gi","gpus":1,"vram":"20Gi"},"nodeSelector":{"zone":"a"},
"activeDeadlineSeconds":86400,"backoffLimit":2,"terminationGracePeriodSeconds":60}}"#;

fn schema() -> Arc<KindSchema> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crds/jobs.yaml");
    let text = std::fs::read_to_string(path).expect("the definition of Job is generated");
    let mut definition = yaml::decode_documents(&text)
        .expect("it is YAML")
        .remove(0)
        .value;
    crd::complete(&mut definition);
    Arc::clone(&crd::compile(&definition).expect("it is a sound definition")[0].schema)
}

fn writer(manager: &str) -> Writer<'_> {
    Writer {
        manager,
        api_version: "gctl.dev/v1",
        subresource: "",
        now: jiff::Timestamp::UNIX_EPOCH,
    }
}

fn create(schema: &KindSchema) -> Value {
    let decoded = decode(JOB.as_bytes(), Format::Json).expect("it is JSON");
    let read = schema
        .read(decoded, FieldValidation::Strict)
        .expect("it is a Job");
    let mut value = schema
        .admit_create(read.value)
        .expect("it is a sound Job")
        .value;
    managed_fields::update(schema, None, &mut value, &writer("bench"));
    value
}

fn update_status(schema: &KindSchema, live: &Value) -> Value {
    let mut next = live.clone();
    next["status"] = json!({"phase": "Running", "attempt": 1, "binding": {"nodeName": "node-1", "gpus": [], "epoch": 1}});
    schema.prune(&mut next);
    schema.default(&mut next);
    let mut value = schema
        .admit_update(next, live, Part::Status)
        .map(|admitted| admitted.value)
        .unwrap_or_default();
    let writer = Writer {
        subresource: "status",
        ..writer("agent")
    };
    managed_fields::update(schema, Some(live), &mut value, &writer);
    value
}

fn benches(c: &mut Criterion) {
    let schema = schema();
    c.bench_function("decode", |b| {
        b.iter(|| decode(black_box(JOB.as_bytes()), Format::Json));
    });
    let decoded = decode(JOB.as_bytes(), Format::Json).expect("it is JSON");
    c.bench_function("read", |b| {
        b.iter_batched(
            || decoded.clone(),
            |decoded| schema.read(decoded, FieldValidation::Strict),
            criterion::BatchSize::SmallInput,
        );
    });
    let read = schema
        .read(decoded, FieldValidation::Strict)
        .expect("it is a Job")
        .value;
    c.bench_function("admit_create", |b| {
        b.iter_batched(
            || read.clone(),
            |value| schema.admit_create(value),
            criterion::BatchSize::SmallInput,
        );
    });
    c.bench_function("create, bytes to object", |b| b.iter(|| create(&schema)));
    let live = create(&schema);
    c.bench_function("status update", |b| {
        b.iter(|| update_status(&schema, black_box(&live)));
    });
}

criterion_group!(all, benches);
criterion_main!(all);
