{{/* Names. Short enough that a pod's name stays below 63 characters. */}}
{{- define "proxist.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- $full := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) -}}
{{- default $full .Values.fullnameOverride | trunc 32 | trimSuffix "-" -}}
{{- end -}}

{{/* (list $ "ingest") -> release-proxist-ingest */}}
{{- define "proxist.name" -}}
{{- printf "%s-%s" (include "proxist.fullname" (index . 0)) (index . 1) -}}
{{- end -}}

{{/* (list $ "ingest") -> the DNS name of a Service of this release */}}
{{- define "proxist.address" -}}
{{- $ := index . 0 -}}
{{- printf "%s.%s.svc.%s" (include "proxist.name" .) $.Release.Namespace $.Values.clusterDomain -}}
{{- end -}}

{{/* (list $ "ingest"): what selects a component's pods. Never changes: a StatefulSet's and a Deployment's selector are immutable. */}}
{{- define "proxist.selector" -}}
app.kubernetes.io/name: {{ (index . 0).Chart.Name }}
app.kubernetes.io/instance: {{ (index . 0).Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{- define "proxist.labels" -}}
{{- $ := index . 0 -}}
{{ include "proxist.selector" . }}
app.kubernetes.io/version: {{ $.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $.Chart.Name ($.Chart.Version | replace "+" "_") }}
{{- with $.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* (list $ "ingest") or (list $ "ingest" "name" annotations labels): a resource's metadata */}}
{{- define "proxist.metadata" -}}
{{- $ := index . 0 -}}
{{- $name := include "proxist.name" (list $ (index . 1)) -}}
{{- $annotations := dict -}}
{{- if gt (len .) 2 }}{{ $name = index . 2 }}{{ end -}}
{{- if gt (len .) 3 }}{{ $annotations = index . 3 }}{{ end -}}
{{- $labels := dict -}}
{{- if gt (len .) 4 }}{{ $labels = index . 4 }}{{ end -}}
name: {{ $name }}
namespace: {{ $.Release.Namespace }}
labels:
  {{- include "proxist.labels" (list $ (index . 1)) | nindent 2 }}
  {{- with $labels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with merge (dict) $annotations $.Values.commonAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "proxist.image" -}}
{{- $ := index . 0 -}}
{{- $image := index . 1 -}}
{{- if $image.digest -}}
{{ $image.repository }}@{{ $image.digest }}
{{- else -}}
{{ $image.repository }}:{{ default $.Chart.AppVersion $image.tag }}
{{- end -}}
{{- end -}}

{{- define "proxist.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{ default (include "proxist.fullname" .) .Values.serviceAccount.name }}
{{- else -}}
{{ default "default" .Values.serviceAccount.name }}
{{- end -}}
{{- end -}}

{{- define "proxist.tlsSecret" -}}
{{- if eq .Values.tls.source "existingSecret" -}}
{{ .Values.tls.existingSecret }}
{{- else -}}
{{ include "proxist.name" (list . "tls") }}
{{- end -}}
{{- end -}}

{{- define "proxist.authSecret" -}}
{{ default (include "proxist.name" (list . "auth")) .Values.auth.existingSecret }}
{{- end -}}

{{/* The secret whose key `url` is the address of ClickHouse */}}
{{- define "proxist.clickhouseSecret" -}}
{{- $clickhouse := .Values.clickhouse -}}
{{- $given := ternary $clickhouse.auth.existingSecret $clickhouse.external.existingSecret $clickhouse.bundled -}}
{{ default (include "proxist.name" (list . "clickhouse")) $given }}
{{- end -}}

{{- define "proxist.tls" -}}
{{- if ne .Values.tls.source "none" }}true{{ end -}}
{{- end -}}

{{- define "proxist.scheme" -}}
{{- ternary "https" "http" (ne .Values.tls.source "none") -}}
{{- end -}}

{{/* Pods run as nobody in particular, with the restricted pod security standard. (list uid) */}}
{{- define "proxist.podSecurity" -}}
runAsNonRoot: true
runAsUser: {{ . }}
runAsGroup: {{ . }}
fsGroup: {{ . }}
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "proxist.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities: {drop: [ALL]}
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{/* (list $ "ingest" values): where pods may run */}}
{{- define "proxist.placement" -}}
{{- $values := index . 2 -}}
{{- with $values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- $spread := dict "zone" "topology.kubernetes.io/zone" "host" "kubernetes.io/hostname" -}}
{{- $wanted := dict -}}
{{- range $domain, $when := $values.spread }}{{ if ne $when "none" }}{{ $_ := set $wanted $domain $when }}{{ end }}{{ end -}}
{{- with $wanted }}
topologySpreadConstraints:
  {{- range $domain, $when := . }}
  - maxSkew: 1
    topologyKey: {{ get $spread $domain }}
    whenUnsatisfiable: {{ $when }}
    labelSelector:
      matchLabels:
        {{- include "proxist.selector" (list (index $ 0) (index $ 1)) | nindent 8 }}
  {{- end }}
{{- end }}
{{- end -}}

{{/* (list $ "ingest" maxUnavailable) */}}
{{- define "proxist.pdb" -}}
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  {{- include "proxist.metadata" (slice . 0 2) | nindent 2 }}
spec:
  maxUnavailable: {{ index . 2 }}
  selector:
    matchLabels:
      {{- include "proxist.selector" (slice . 0 2) | nindent 6 }}
{{- end -}}

{{/* dict root role persistence: the claim of a StatefulSet. No label of it may change: claim templates are immutable. */}}
{{- define "proxist.claim" -}}
- apiVersion: v1
  kind: PersistentVolumeClaim
  metadata:
    name: data
    labels:
      {{- include "proxist.selector" (list .root .role) | nindent 6 }}
    {{- with .persistence.annotations }}
    annotations:
      {{- toYaml . | nindent 6 }}
    {{- end }}
  spec:
    accessModes: [{{ .persistence.accessMode }}]
    {{- with .persistence.storageClass }}
    storageClassName: {{ . }}
    {{- end }}
    resources:
      requests: {storage: {{ .persistence.size }}}
{{- end -}}

{{/* Every name by which a part of this release is called, for its certificate */}}
{{- define "proxist.dnsNames" -}}
{{- $names := list "localhost" -}}
{{- range $service := list "ingest" "ingest-pods" "query" "query-pods" "persister-pods" "controlplane" "controlplane-pods" "etcd" "clickhouse" -}}
{{- $short := include "proxist.name" (list $ $service) -}}
{{- $local := printf "%s.%s.svc" $short $.Release.Namespace -}}
{{- $names = concat $names (list $short $local (printf "%s.%s" $local $.Values.clusterDomain)) -}}
{{- if or (hasSuffix "-pods" $service) (eq $service "etcd") -}}
{{- $names = append $names (printf "*.%s.%s" $local $.Values.clusterDomain) -}}
{{- end -}}
{{- end -}}
{{- concat $names .Values.tls.extraNames | toJson -}}
{{- end -}}

{{- define "proxist.clickhousePort" -}}
{{- ternary "8443" "8123" (ne .Values.tls.source "none") -}}
{{- end -}}
