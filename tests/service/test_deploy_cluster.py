"""docker-compose.yml and deploy/kubernetes against published schemas, and against the service they start."""

from __future__ import annotations

import json
import re
from importlib.resources import files
from pathlib import Path

import jsonschema
import kubernetes_validate
import pytest
import yaml

from service.routes import health
from service.settings import Settings

ROOT = Path(__file__).parents[2]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
KUBERNETES = ROOT / "deploy" / "kubernetes"
FOLDERS = ("base", "gpu")
VERSION = "1.37.0"
SETTINGS = {f"RAGTUNE_{name.upper()}" for name in Settings.model_fields}
ROUTES = {route.path for route in health.router.routes}


def objects(folder):
    """Return (file, object) of what a kustomization lists, those of the folders it builds on included."""
    listed = yaml.safe_load((KUBERNETES / folder / "kustomization.yaml").read_text())["resources"]
    found = []
    for name in listed:
        path = (KUBERNETES / folder / name).resolve()
        if path.is_dir():
            found += objects(path.relative_to(KUBERNETES))
        else:
            found += [(path.name, made) for made in yaml.safe_load_all(path.read_text())]
    return found


def kinds(folder, kind):
    return [made for _, made in objects(folder) if made["kind"] == kind]


def pods(folder):
    return [made["spec"]["template"]["spec"] for made in kinds(folder, "Deployment")]


# Compose


def schema():
    path = files("check_jsonschema") / "builtin_schemas" / "vendor" / "compose-spec.json"
    return json.loads(path.read_text())


def test_compose_fits_the_compose_specification():
    jsonschema.validate(COMPOSE, schema())
    broken = {**COMPOSE, "services": {"ragtune": {"image": "x", "replicas": 2}}}
    with pytest.raises(jsonschema.ValidationError, match="replicas"):
        jsonschema.validate(broken, schema())


def test_what_no_profile_starts_is_one_container_and_profiles_are_those_of_the_documents():
    by_profile = {name: service.get("profiles", []) for name, service in COMPOSE["services"].items()}
    assert [name for name, profiles in by_profile.items() if not profiles] == ["ragtune"]
    assert {profile for profiles in by_profile.values() for profile in profiles} == {"gpu", "cluster"}
    for file in ("gpu", "cluster"):
        assert f"COMPOSE_PROFILES={file}\n" in (ROOT / "deploy" / "compose" / f"{file}.env").read_text()


def test_compose_refers_to_what_it_defines():
    services, volumes = COMPOSE["services"], COMPOSE["volumes"]
    for name, service in services.items():
        assert set(service.get("depends_on", [])) <= set(services), name
        mounts = [volume.split(":")[0] for volume in service.get("volumes", []) if volume[0] not in "./$"]
        assert set(mounts) <= set(volumes), name
        assert {one["source"] for one in service.get("configs", [])} <= set(COMPOSE["configs"]), name
    # An address in an environment file names a service, and a server that listens at that port.
    said = " ".join(file.read_text() for file in sorted((ROOT / "deploy" / "compose").iterdir()))
    assert set(re.findall(r"@(\w+):5432", said)) == {"postgres"}
    assert set(re.findall(r"http://(\w+):8000", said)) == {"vllm"}
    aliases = services["ragtune"]["networks"]["default"]["aliases"]
    assert re.findall(r"http://(\w+):8000", COMPOSE["configs"]["gateway"]["content"]) == aliases


def test_environment_files_set_what_compose_reads():
    read = set(re.findall(r"\$\{(\w+)", (ROOT / "docker-compose.yml").read_text()))
    for file in sorted((ROOT / "deploy" / "compose").iterdir()):
        lines = [line for line in file.read_text().splitlines() if line and not line.startswith("#")]
        names = {line.partition("=")[0] for line in lines}
        assert names - {"COMPOSE_PROFILES"} <= read, file.name
        empty = {name for name, value in (line.split("=", 1) for line in lines) if not value}
        assert empty <= {"RAGTUNE_API_KEY", "POSTGRES_PASSWORD", "RAGTUNE_ENGINE_API_KEY"}, "secrets are filled in"


def test_an_empty_address_of_the_database_is_none():
    assert Settings.load(database_url="").database_url is None
    assert "secret" not in repr(Settings.load(database_url="postgresql://u:secret@h/d"))


@pytest.mark.parametrize("name", COMPOSE["services"])
def test_containers_of_compose_gain_no_privileges(name):
    service = COMPOSE["services"][name]
    assert "no-new-privileges:true" in service["security_opt"]
    if name != "vllm":  # its image writes beside itself
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]


# Kubernetes


@pytest.mark.parametrize("folder", FOLDERS)
def test_objects_fit_the_schemas_of_kubernetes(folder):
    for _name, made in objects(folder):
        kubernetes_validate.validate(made, VERSION, strict=True)


def test_the_validator_refuses_what_is_wrong():
    (made,) = [made for name, made in objects("base") if name == "deployment.yaml"]
    made["spec"]["template"]["spec"]["containers"][0]["readinesProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(made, VERSION, strict=True)


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_kustomization_lists_every_file_and_patches_what_is_there(folder):
    made = yaml.safe_load((KUBERNETES / folder / "kustomization.yaml").read_text())
    present = {path.name for path in (KUBERNETES / folder).glob("*.yaml")} - {"kustomization.yaml"}
    assert {name for name in made["resources"] if name.endswith(".yaml")} == present
    for patch in made.get("patches", ()):
        (target,) = [one for one in kinds(folder, patch["target"]["kind"]) if
                     one["metadata"]["name"] == patch["target"]["name"]]  # fmt: skip
        for step in yaml.safe_load(patch["patch"]):
            *parents, last = step["path"].strip("/").split("/")
            place = target
            for parent in parents:
                place = place[parent]
            assert (last in place) == (step["op"] == "replace"), step


@pytest.mark.parametrize("folder", FOLDERS)
def test_selectors_find_the_pods_they_mean(folder):
    deployments = {made["metadata"]["name"]: made["spec"] for made in kinds(folder, "Deployment")}
    labels = [spec["template"]["metadata"]["labels"] for spec in deployments.values()]
    for spec in deployments.values():
        assert spec["selector"]["matchLabels"].items() <= spec["template"]["metadata"]["labels"].items()
    chosen = [made["spec"]["selector"] for made in kinds(folder, "Service")]
    chosen += [made["spec"]["selector"]["matchLabels"] for made in kinds(folder, "PodDisruptionBudget")]
    chosen += [made["spec"]["podSelector"]["matchLabels"] for made in kinds(folder, "NetworkPolicy")]
    assert all(sum(wanted.items() <= one.items() for one in labels) == 1 for wanted in chosen)
    for scaler in kinds(folder, "HorizontalPodAutoscaler"):
        spec = deployments[scaler["spec"]["scaleTargetRef"]["name"]]
        assert scaler["spec"]["minReplicas"] == spec["replicas"]
        (budget,) = kinds(folder, "PodDisruptionBudget")
        assert budget["spec"]["minAvailable"] < spec["replicas"]  # else no node could be drained
        assert "cpu" in spec["template"]["spec"]["containers"][0]["resources"]["requests"]  # what is scaled by


@pytest.mark.parametrize("folder", FOLDERS)
def test_pods_run_without_root_and_cannot_write_their_image(folder):
    for pod in pods(folder):
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault"
        assert pod["automountServiceAccountToken"] is False
        for container in pod["containers"]:
            context = container["securityContext"]
            assert (context["readOnlyRootFilesystem"], context["allowPrivilegeEscalation"]) == (True, False)
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert {mount["name"] for mount in container["volumeMounts"]} <= {one["name"] for one in pod["volumes"]}
            assert "memory" in container["resources"]["limits"]


def test_probes_ask_routes_that_exist_and_liveness_does_not_ask_the_database():
    (container,) = pods("base")[0]["containers"]
    asked = {kind: container[f"{kind}Probe"]["httpGet"]["path"] for kind in ("liveness", "readiness", "startup")}
    assert set(asked.values()) <= ROUTES
    assert asked == {"liveness": "/healthz", "readiness": "/readyz", "startup": "/healthz"}


def test_secrets_come_from_the_secret_and_names_are_settings():
    (container,) = pods("base")[0]["containers"]
    secret = {one["name"]: one["valueFrom"]["secretKeyRef"]["key"] for one in container["env"]}
    assert secret == {"RAGTUNE_API_KEY": "api-key", "RAGTUNE_DATABASE_URL": "database-url"}
    assert all(f"--from-literal={key}=" in (KUBERNETES / "README.md").read_text() for key in secret.values())
    texts = [path.read_text() for path in KUBERNETES.rglob("*") if path.is_file()]
    texts += [path.read_text() for path in (ROOT / "deploy" / "compose").iterdir()]
    named = {name for text in texts for name in re.findall(r"\bRAGTUNE_[A-Z_]+", text)}
    assert named <= SETTINGS | {"RAGTUNE_EXTRAS"}


def test_versions_are_those_of_the_distribution():
    version = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.M)[1]
    (image,) = yaml.safe_load((KUBERNETES / "base" / "kustomization.yaml").read_text())["images"]
    assert image["newTag"] == version
    assert COMPOSE["services"]["ragtune"]["image"] == f"ragtune:{version}"
