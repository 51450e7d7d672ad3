"""The files of deploy/ and the Dockerfile under the usual linters; no container engine is needed."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from fastapi.testclient import TestClient

from tests.conftest import PLACE
from tests.support import MakeSettings, wait_ready
from tilecascade.app.api.app import create_app
from tilecascade.app.settings import ENVIRONMENT, LayerSettings, Settings, read_configuration

ROOT = Path(__file__).resolve().parents[2]
SKIPPED = {
    "try_files_is_evil_too": "wants open_file_cache, which would go on serving purged tiles",
    "proxy_pass_normalized": "the parts of the bucket's address are a layer's name, hexadecimal digits and numbers",
    "host_spoofing": "the Host header is only written back into this client's own addresses; $host loses the port",
}


RAY_CLUSTER = {"rayVersion", "enableInTreeAutoscaling", "autoscalerOptions", "headGroupSpec", "workerGroupSpecs"}
RAY_GROUP = {"rayStartParams", "template"}
RAY_WORKERS = {"groupName", "replicas", "minReplicas", "maxReplicas"}
"""The fields of KubeRay's objects that are used; their types, ray-operator/apis/ray/v1/raycluster_types.go, have them.
"""


def lint(*command: str) -> None:
    program = Path(sys.executable).with_name(command[0])
    if not program.exists():
        pytest.skip(f"no {command[0]} in this environment")
    done = subprocess.run([str(program), *command[1:]], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_dockerfile() -> None:
    lint("hadolint", "Dockerfile")


def test_compose() -> None:
    rules = "{line-length: {max: 160}, document-start: disable, comments: {min-spaces-from-content: 1}}"
    lint("yamllint", "--strict", "-d", f"{{extends: default, rules: {rules}}}", "deploy/compose.yaml")


@pytest.mark.parametrize("name", ["nginx.conf", "nginx.bucket.conf"])
def test_nginx(name: str) -> None:
    lint("gixy", "-ll", "--skips", ",".join(SKIPPED), f"deploy/{name}")


def test_systemd_unit(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd-analyze here")
    text = (ROOT / "deploy" / "tilecascade.service").read_text()
    # the program is not installed where the unit expects it
    unit = tmp_path / "tilecascade.service"
    unit.write_text(text.replace("/opt/tilecascade/.venv/bin/tilecascade", "/bin/true"))
    done = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True)
    assert str(unit) not in done.stderr, done.stderr


def test_the_image_has_the_versions_that_are_tested() -> None:
    def versions(name: str) -> dict[str, str]:
        lines = [line.split(" ")[0] for line in (ROOT / "deploy" / name).read_text().splitlines() if line[0] != "#"]
        return {package.lower().replace("_", "-"): version for package, version in (line.split("==") for line in lines)}

    tested, locked = versions("constraints.txt"), versions("requirements.lock")
    assert {name: tested.get(name.replace("_", "-")) for name in locked} == locked
    assert len(locked) > 50
    assert all(" --hash=sha256:" in line for line in (ROOT / "deploy/requirements.lock").read_text().splitlines()[1:])


def documents() -> list[dict[str, Any]]:
    """All objects of deploy/kubernetes, of this program's own version of what kustomize makes of them."""
    folder = ROOT / "deploy" / "kubernetes"
    kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text())
    return [document for name in kustomization["resources"] for document in yaml.safe_load_all((folder / name).open())]


def test_kubernetes_objects_are_what_kubernetes_knows() -> None:
    validate = pytest.importorskip("kubernetes_validate")
    seen = set()
    for document in documents():
        seen.add(document["kind"])
        if not document["apiVersion"].startswith("ray.io"):
            validate.validate(document, "1.30", strict=True)
            continue
        spec = document["spec"]
        assert spec.keys() <= RAY_CLUSTER
        assert spec["headGroupSpec"].keys() <= RAY_GROUP
        for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
            assert group.keys() <= RAY_GROUP | RAY_WORKERS
            assert {str(value) for value in group["rayStartParams"].values()} == set(group["rayStartParams"].values())
            pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "ray", **group["template"]["metadata"]}}
            validate.validate(pod | {"spec": group["template"]["spec"]}, "1.30", strict=True)
    assert seen >= {"StatefulSet", "RayCluster", "HorizontalPodAutoscaler", "PodDisruptionBudget", "NetworkPolicy"}


def test_kubernetes_yaml() -> None:
    rules = "{line-length: {max: 160}, document-start: disable, comments: {min-spaces-from-content: 1}}"
    files = [str(path.relative_to(ROOT)) for path in sorted((ROOT / "deploy").rglob("*.yaml"))]
    assert len(files) > 7
    lint("yamllint", "--strict", "-d", f"{{extends: default, rules: {rules}, braces: disable}}", *files)


def pods() -> list[dict[str, Any]]:
    """The specification of every pod."""
    found = [each["spec"]["template"]["spec"] for each in documents() if "template" in each.get("spec", {})]
    ray = next(each["spec"] for each in documents() if each["kind"] == "RayCluster")
    return [*found, ray["headGroupSpec"]["template"]["spec"], ray["workerGroupSpecs"][0]["template"]["spec"]]


def test_no_pod_is_root_or_may_become_it() -> None:
    assert len(pods()) == 4
    for pod in pods():
        assert pod["securityContext"]["runAsNonRoot"]
        for container in pod["containers"]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert "memory" in container["resources"]["limits"]


def test_what_kuberay_adds_to_pods_fits_them() -> None:
    """Its own probes need wget, which the image does not have; its autoscaler has to fit the namespace's rules."""
    ray = next(each["spec"] for each in documents() if each["kind"] == "RayCluster")
    for group in (ray["headGroupSpec"], *ray["workerGroupSpecs"]):
        (container,) = group["template"]["spec"]["containers"]
        for probe in ("readinessProbe", "livenessProbe"):
            assert container[probe]["httpGet"] == {"path": "/api/healthz", "port": 52365}
    (space,) = (each["metadata"] for each in documents() if each["kind"] == "Namespace")
    assert space["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    assert ray["autoscalerOptions"]["securityContext"] == container["securityContext"]


def test_the_objects_fit_together() -> None:
    """Selectors find pods, services find ports, and what is mounted is there."""
    labels = {"ray.io/cluster": "tilecascade", "ray.io/node-type": "head"}  # which KubeRay adds
    known = [labels | each["spec"]["template"]["metadata"]["labels"] for each in documents() if template_of(each)]
    for each in documents():
        if each["kind"] == "Service":
            wanted = each["spec"]["selector"].items()
            assert wanted <= labels.items() or any(wanted <= one.items() for one in known), each
    claims = {each["metadata"]["name"] for each in documents() if each["kind"] == "PersistentVolumeClaim"}
    for pod in pods():
        own = {volume["name"] for volume in pod.get("volumes", [])} | {"state"}
        assert {mount["name"] for box in pod["containers"] for mount in box.get("volumeMounts", [])} <= own
        assert {v["persistentVolumeClaim"]["claimName"] for v in pod.get("volumes", []) if "emptyDir" not in v
                and "persistentVolumeClaim" in v} <= claims  # fmt: skip


def template_of(document: dict[str, Any]) -> bool:
    return "template" in document.get("spec", {})


def test_the_settings_of_the_cluster_are_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The server starts with deploy/kubernetes/settings.env, and with what the compose file gives."""
    lines = (ROOT / "deploy/kubernetes/settings.env").read_text().splitlines()
    compose = yaml.safe_load((ROOT / "deploy/compose.cluster.yaml").read_text())["services"]["front"]["environment"]
    names = {line.split("=")[0] for line in lines} | {name for name in compose if name.startswith(ENVIRONMENT)}
    assert {name.removeprefix(ENVIRONMENT).lower() for name in names} <= set(Settings.model_fields)
    for name, _, value in (line.partition("=") for line in lines):
        monkeypatch.setenv(name, value)
    settings = Settings()
    assert settings.replicas_most == 8
    layers = tmp_path / "layers.toml"
    layers.write_text((ROOT / "deploy/kubernetes/layers.toml").read_text())
    assert [layer.name for layer in read_configuration(layers)[1]] == ["map"]


def test_the_dashboard_and_the_alerts_ask_for_metrics_that_there_are(
    make_settings: MakeSettings, layer_settings: LayerSettings
) -> None:
    """Of a server with a local engine, and those of replicas."""
    with TestClient(create_app(make_settings(), [layer_settings])) as client:
        wait_ready(client)
        assert client.get(f"/tiles/14/{PLACE.x}/{PLACE.y}.png").status_code == 200
        told = client.get("/metrics").text + "tilecascade_replicas tilecascade_replica_retries_total "
    dashboard = json.loads((ROOT / "deploy/grafana.json").read_text())
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    rules = yaml.safe_load((ROOT / "deploy/alerts.yaml").read_text())["groups"][0]["rules"]
    names = set(re.findall(r"tilecascade_\w+", " ".join([*asked, *(rule["expr"] for rule in rules)])))
    assert len(names) > 10
    assert {name for name in names if name not in told} == set()
