{{- define "assay.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" }}
{{- end }}

{{- define "assay.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" }}
{{- else if contains (include "assay.name" .) .Release.Name }}
{{- .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "assay.name" .) | trunc 40 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "assay.selector" -}}
app.kubernetes.io/name: {{ include "assay.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "assay.labels" -}}
{{ include "assay.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{/* Context: (list $ "coordinator") */}}
{{- define "assay.image" -}}
{{- $root := index . 0 }}
{{- with $root.Values.image.registry }}{{ trimSuffix "/" . }}/{{ end }}{{ $root.Values.image.repository }}/{{ index . 1 }}:{{ default $root.Chart.AppVersion $root.Values.image.tag }}
{{- end }}

{{- define "assay.podSecurity" -}}
runAsNonRoot: true
runAsUser: {{ . }}
runAsGroup: {{ . }}
fsGroup: {{ . }}
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "assay.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{/* What every pod spec of ours begins with. */}}
{{- define "assay.pod" -}}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
securityContext:
  {{- include "assay.podSecurity" 10001 | nindent 2 }}
{{- end }}

{{/* Context: (list $ "coordinator" "other labels as YAML") */}}
{{- define "assay.spread" -}}
{{- $root := index . 0 }}
{{- range list "kubernetes.io/hostname" "topology.kubernetes.io/zone" }}
- maxSkew: 1
  topologyKey: {{ . }}
  whenUnsatisfiable: ScheduleAnyway
  labelSelector:
    matchLabels:
      {{- include "assay.selector" $root | nindent 6 }}
      {{- index $ 1 | nindent 6 }}
{{- end }}
{{- end }}

{{- define "assay.tls" -}}
{{- if ne .Values.tls.mode "none" }}true{{ end }}
{{- end }}

{{- define "assay.address" -}}
{{ include "assay.fullname" . }}.{{ .Release.Namespace }}.svc:7420
{{- end }}

{{/* Every coordinator's address behind one name, so that a worker moves over when one dies. */}}
{{- define "assay.allAddresses" -}}
{{ include "assay.fullname" . }}-coordinators.{{ .Release.Namespace }}.svc:7420
{{- end }}

{{- define "assay.issuer" -}}
{{- with .Values.tls.certManager.issuer }}
name: {{ default (printf "%s-ca" (include "assay.fullname" $)) .name }}
kind: {{ .kind }}
group: {{ .group }}
{{- end }}
{{- end }}

{{/* The Secret with tls.crt, tls.key and ca.crt of "coordinator" or "client". Context: (list $ "client") */}}
{{- define "assay.tlsSecret" -}}
{{- $root := index . 0 }}{{ $who := index . 1 }}
{{- if eq $root.Values.tls.mode "certManager" }}
{{- include "assay.fullname" $root }}-{{ $who }}-tls
{{- else }}
{{- required (printf "tls.secrets.%s: the Secret with tls.crt, tls.key and ca.crt, where tls.mode is secrets" $who) (get $root.Values.tls.secrets $who) }}
{{- end }}
{{- end }}

{{/* A client's flags. Context: (list $ "name of the token's Secret") */}}
{{- define "assay.clientArgs" -}}
{{- if include "assay.tls" (index . 0) }}
- --tls-ca=/etc/assay/tls/ca.crt
{{- end }}
{{- if index . 1 }}
- --token-file=/etc/assay/token/token
{{- end }}
{{- end }}

{{- define "assay.clientMounts" -}}
{{- if include "assay.tls" (index . 0) }}
- {name: tls, mountPath: /etc/assay/tls, readOnly: true}
{{- end }}
{{- if index . 1 }}
- {name: token, mountPath: /etc/assay/token, readOnly: true}
{{- end }}
{{- end }}

{{- define "assay.clientVolumes" -}}
{{- $root := index . 0 }}
{{- if include "assay.tls" $root }}
- name: tls
  secret:
    secretName: {{ include "assay.tlsSecret" (list $root "coordinator") }}
    items: [{key: ca.crt, path: ca.crt}]
{{- end }}
{{- with index . 1 }}
- name: token
  secret:
    secretName: {{ . }}
    items: [{key: token, path: token}]
{{- end }}
{{- end }}

{{/* The pools with their defaults filled in, as JSON. */}}
{{- define "assay.pools" -}}
{{- $pools := list }}{{ $names := dict }}
{{- range .Values.pools }}
{{- $pool := mergeOverwrite (deepCopy $.Values.poolDefaults) (deepCopy .) }}
{{- if hasKey $names .name }}{{ fail (printf "pools: %s is there twice" .name) }}{{ end }}
{{- $_ := set $names .name true }}
{{- $gpu := eq .device "cuda" }}
{{- if and $gpu (not .gpu) }}{{ fail (printf "pools: %s: device cuda needs gpu" .name) }}{{ end }}
{{- if and .gpu (not $gpu) }}{{ fail (printf "pools: %s: has gpu, but its device is cpu" .name) }}{{ end }}
{{- if ne $gpu (eq .image "worker-cuda") }}{{ fail (printf "pools: %s: device cuda and image worker-cuda go together" .name) }}{{ end }}
{{- if and (eq $pool.modelCache.type "claim") (not $pool.modelCache.claimName) }}{{ fail (printf "pools: %s: modelCache.type claim needs claimName" .name) }}{{ end }}
{{- if and .autoscaling (lt (int .autoscaling.max) (int .autoscaling.min)) }}{{ fail (printf "pools: %s: autoscaling.max is below autoscaling.min" .name) }}{{ end }}
{{- $pools = append $pools $pool }}
{{- end }}
{{- toJson $pools }}
{{- end }}

{{- define "assay.workerResources" -}}
{{- $resources := deepCopy .resources }}
{{- with .gpu }}
{{- $limits := default dict (get $resources "limits") }}
{{- $_ := set $limits .resource .count }}
{{- $_ := set $resources "limits" $limits }}
{{- end }}
{{- toYaml $resources }}
{{- end }}

{{/* Context: (list $ pool) */}}
{{- define "assay.acceptCommand" -}}
{{- $pool := index . 1 -}}
args:
  - --state-dir=/var/lib/assay
  {{- if not $pool.gpu }}
  - --cpu-only
  {{- end }}
  - accept
  - --content=/usr/share/assay
{{- end }}

{{- define "assay.workerCertificate" -}}
{{- if or (eq .Values.tls.mode "certManager") .Values.tls.secrets.worker }}true{{ end }}
{{- end }}

{{- define "assay.workerTlsVolume" -}}
- name: tls
  {{- if eq .Values.tls.mode "certManager" }}
  # A certificate of the pod's own, by cert-manager's CSI driver; the key never leaves the node.
  csi:
    driver: csi.cert-manager.io
    readOnly: true
    volumeAttributes:
      {{- $issuer := include "assay.issuer" . | fromYaml }}
      csi.cert-manager.io/issuer-name: {{ $issuer.name }}
      csi.cert-manager.io/issuer-kind: {{ $issuer.kind }}
      csi.cert-manager.io/issuer-group: {{ $issuer.group }}
      csi.cert-manager.io/common-name: ${POD_NAME}
      csi.cert-manager.io/dns-names: ${POD_NAME}
      csi.cert-manager.io/key-usages: client auth
      csi.cert-manager.io/fs-group: "10001"
  {{- else }}
  secret:
    {{- if .Values.tls.secrets.worker }}
    secretName: {{ .Values.tls.secrets.worker }}
    {{- else }}
    secretName: {{ include "assay.tlsSecret" (list . "coordinator") }}
    items: [{key: ca.crt, path: ca.crt}]
    {{- end }}
    defaultMode: 0440
  {{- end }}
{{- end }}

{{/* The labels that tell a pool's workers apart, beside pool=NAME and node=NODE, as a JSON list. */}}
{{- define "assay.poolLabels" -}}
{{- $labels := list }}
{{- with .gpu }}
{{- with .model }}{{ $labels = append $labels (printf "gpu=%s" .) }}{{ end }}
{{- with .migProfile }}{{ $labels = append $labels (printf "mig=%s" .) }}{{ end }}
{{- end }}
{{- range $key, $value := .labels }}{{ $labels = append $labels (printf "%s=%s" $key $value) }}{{ end }}
{{- toJson $labels }}
{{- end }}

{{/* What --pools reads (proto/assay/v1/pools.proto): how much each pool could take, were it scaled up. */}}
{{- define "assay.poolsFile" -}}
{{- range $pool := include "assay.pools" . | fromJsonArray }}
{{- $workers := int $pool.replicas }}
{{- with $pool.autoscaling }}{{ $workers = int .max }}{{ end }}
{{- if $workers -}}
pool {
  name: {{ $pool.name | quote }}
  device: {{ $pool.device | quote }}
  max_workers: {{ $workers }}
  {{- range include "assay.poolLabels" $pool | fromJsonArray }}
  label: {{ . | quote }}
  {{- end }}
  {{- with $pool.gpu }}
  slots: {{ mul .slots .count }}
  gpus: {{ .count }}
  gpu_memory_gib: {{ .memoryGiB }}
  {{- else }}
  slots: {{ $pool.slots | default 1 }}
  {{- end }}
  {{- if eq $pool.image "exporter" }}
  exporter: true
  {{- end }}
}
{{- end }}
{{- end }}
{{- end }}

{{- define "assay.scaled" -}}
{{- range .Values.pools }}{{ if .autoscaling }}true{{ end }}{{ end }}
{{- end }}
