"""The "restricted" profile of the Pod Security Standards (kubernetes.io/docs/concepts/security/pod-security-standards),
its baseline rules included."""

VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}


def violations(pod):
    """What of a pod's template the profile refuses, in words; empty: nothing."""
    spec, found = pod["spec"], []

    def refuse(condition, what):
        if condition:
            found.append(what)

    for field in ("hostNetwork", "hostPID", "hostIPC"):
        refuse(spec.get(field), field)
    shared = spec.get("securityContext", {})
    refuse("sysctls" in shared, "sysctls")
    for volume in spec.get("volumes", []):
        refuse(set(volume) - {"name"} - VOLUMES, f"volume {volume['name']}: {sorted(set(volume) - {'name'})}")
    for container in spec.get("initContainers", []) + spec["containers"]:
        own, name = container.get("securityContext", {}), container["name"]
        context = {**shared, **own}
        refuse(own.get("privileged"), f"{name}: privileged")
        refuse(own.get("allowPrivilegeEscalation") is not False, f"{name}: allowPrivilegeEscalation is not false")
        refuse(context.get("runAsNonRoot") is not True, f"{name}: runAsNonRoot is not true")
        refuse(context.get("runAsUser") == 0, f"{name}: runAsUser is 0")
        refuse(context.get("seccompProfile", {}).get("type") not in ("RuntimeDefault", "Localhost"),
               f"{name}: no seccompProfile")
        capabilities = own.get("capabilities", {})
        refuse("ALL" not in capabilities.get("drop", []), f"{name}: not all capabilities are dropped")
        refuse(set(capabilities.get("add", [])) - {"NET_BIND_SERVICE"}, f"{name}: adds capabilities")
        refuse(own.get("procMount", "Default") != "Default", f"{name}: procMount")
        refuse(any("hostPort" in port for port in container.get("ports", [])), f"{name}: hostPort")
        refuse("seLinuxOptions" in context or "windowsOptions" in context, f"{name}: seLinuxOptions or windowsOptions")
    return found
