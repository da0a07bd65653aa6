{{/* Parts that the pods of all four services have. `role` is ingest, query, persister or controlplane. */}}

{{- define "proxist.ports" -}}
{{- $ports := dict
  "ingest" (dict "flight" 8816 "grpc" 7411 "http" 7412)
  "query" (dict "flight" 8815 "grpc" 7421 "http" 7422)
  "persister" (dict "grpc" 7431 "http" 7432)
  "controlplane" (dict "grpc" 7441 "http" 7442) -}}
{{- get $ports . | toYaml -}}
{{- end -}}

{{- define "proxist.etcd" -}}
{{- if .Values.etcd.bundled -}}
{{- $endpoints := list -}}
{{- $service := include "proxist.address" (list . "etcd") -}}
{{- range $i := until (int .Values.etcd.replicas) -}}
{{- $endpoints = append $endpoints (printf "%s%s-%d.%s:2379" (ternary "https://" "" (ne $.Values.tls.source "none")) (include "proxist.name" (list $ "etcd")) $i $service) -}}
{{- end -}}
{{ join "," $endpoints }}
{{- else -}}
{{ join "," .Values.etcd.external.endpoints }}
{{- end -}}
{{- end -}}

{{/* Per store that somebody else runs, the secret with the authority of its certificate */}}
{{- define "proxist.storeAuthorities" -}}
{{- with .Values.etcd.external.caSecret }}
etcd: {{ . }}
{{- end }}
{{- with .Values.clickhouse.external.caSecret }}
clickhouse: {{ . }}
{{- end }}
{{- end -}}

{{/* (list $ role): the service's config file. Settings of one pod alone are environment variables. */}}
{{- define "proxist.config" -}}
{{- $ := index . 0 -}}
{{- $role := index . 1 -}}
{{- $config := deepCopy (get $.Values $role).config -}}
{{- range $door, $port := include "proxist.ports" $role | fromYaml }}{{ $_ := set $config (printf "%s_port" $door) (int $port) }}{{ end -}}
{{- $_ := set $config "host" "0.0.0.0" -}}
{{- $_ := set $config "data_dir" "/var/lib/proxist/data" -}}
{{- $_ := set $config "run_dir" "/run/proxist/shared" -}}
{{- $_ := set $config "etcd" (include "proxist.etcd" $) -}}
{{- if $.Values.insecure -}}
{{- $_ := set $config "insecure" true -}}
{{- else -}}
{{- $_ := set $config "auth" "tokens" -}}
{{- end -}}
{{- if include "proxist.tls" $ }}{{ $_ := set $config "tls_clients" $.Values.tls.clients }}{{ end -}}
{{- if $.Values.etcd.external.caSecret }}{{ $_ := set $config "etcd_ca" "/etc/proxist/etcd-ca/ca.crt" }}{{ end -}}
{{- with $.Values.clickhouse.external -}}
{{- if .caSecret }}{{ $_ := set $config "clickhouse_ca" "/etc/proxist/clickhouse-ca/ca.crt" }}{{ end -}}
{{- if .systemCa }}{{ $_ := set $config "clickhouse_ca" "system" }}{{ end -}}
{{- end -}}
{{ toYaml $config }}
{{- end -}}

{{/* (list $ role): a change of what a pod reads at its start makes new pods. What the chart itself generated once is left out. */}}
{{- define "proxist.podMetadata" -}}
{{- $ := index . 0 -}}
{{- $role := index . 1 -}}
{{- $values := get $.Values $role -}}
annotations:
  checksum/config: {{ include "proxist.config" (list $ $role) | sha256sum }}
  {{- if and (eq $role "ingest") $values.attachedQueries }}
  checksum/config-query: {{ include "proxist.config" (list $ "query") | sha256sum }}
  {{- end }}
  checksum/secrets: {{ list $.Values.tls $.Values.auth $.Values.clickhouse.external $.Values.clickhouse.auth | toJson | sha256sum }}
  {{- with merge (dict) $values.podAnnotations $.Values.commonAnnotations }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
labels:
  {{- include "proxist.selector" . | nindent 2 }}
  {{- if or (eq $role "query") (and (eq $role "ingest") $values.attachedQueries) }}
  proxist/answers: "true"
  {{- end }}
  {{- with merge (dict) $values.podLabels $.Values.commonLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end -}}

{{/* (list $ role): of a pod's spec, what does not depend on its containers */}}
{{- define "proxist.podSpec" -}}
{{- $ := index . 0 -}}
{{- $values := get $.Values (index . 1) -}}
serviceAccountName: {{ include "proxist.serviceAccount" $ }}
automountServiceAccountToken: false
# Kubernetes would set PROXIST_…_SERVICE_HOST variables, and a service refuses settings that it does not know.
enableServiceLinks: false
{{- with $.Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
securityContext:
  {{- include "proxist.podSecurity" 10001 | nindent 2 }}
{{- include "proxist.placement" (list $ (index . 1) $values) }}
{{- end -}}

{{/* Time for preStop, the service's own grace, and an ordered end. */}}
{{- define "proxist.preStopSeconds" -}}5{{- end -}}
{{- define "proxist.graceSeconds" -}}
{{- add (include "proxist.preStopSeconds" . | int) (ceil .stop_grace_s | int) 10 -}}
{{- end -}}

{{/* dict root role container name (default: the pod's) advertise ports ([door, name, port]…) mounts */}}
{{- define "proxist.container" -}}
{{- $ := .root -}}
{{- $values := get $.Values .role -}}
name: {{ .container }}
image: {{ include "proxist.image" (list $ $.Values.image) }}
imagePullPolicy: {{ $.Values.image.pullPolicy }}
command: [proxist, {{ .role }}]
env:
  - name: POD_NAME
    valueFrom: {fieldRef: {fieldPath: metadata.name}}
  - name: PROXIST_CONFIG
    value: /etc/proxist/{{ .role }}/config.yaml
  - name: PROXIST_NAME
    value: {{ printf "$(POD_NAME)%s" (.suffix | default "") }}
  - name: PROXIST_ADVERTISE_HOST
    value: {{ .advertise }}
  {{- range .ports }}
  {{- if .set }}
  - name: PROXIST_{{ upper .door }}_PORT
    value: {{ .port | quote }}
  {{- end }}
  {{- end }}
  - name: PROXIST_CLICKHOUSE
    valueFrom: {secretKeyRef: {name: {{ include "proxist.clickhouseSecret" $ }}, key: url}}
  {{- include "proxist.identity" $ | nindent 2 }}
  - name: OTEL_SERVICE_NAME
    value: proxist-{{ .role }}
  {{- range $name, $value := merge (dict) $values.env $.Values.otel }}
  {{- if ne $name "OTEL_SERVICE_NAME" }}
  - name: {{ $name }}
    value: {{ $value | toString | quote }}
  {{- end }}
  {{- end }}
ports:
  {{- range .ports }}
  - {name: {{ .name }}, containerPort: {{ .port }}, protocol: TCP}
  {{- end }}
{{- $http := "" }}
{{- range .ports }}{{ if eq .door "http" }}{{ $http = .name }}{{ end }}{{ end }}
# The kernels are compiled in the image, so a start takes seconds; recovery of a log goes on behind /livez.
startupProbe:
  httpGet: {path: /livez, port: {{ $http }}, scheme: {{ include "proxist.scheme" $ | upper }}}
  periodSeconds: 2
  failureThreshold: 60
livenessProbe:
  httpGet: {path: /livez, port: {{ $http }}, scheme: {{ include "proxist.scheme" $ | upper }}}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
readinessProbe:
  httpGet: {path: /readyz, port: {{ $http }}, scheme: {{ include "proxist.scheme" $ | upper }}}
  periodSeconds: 3
  timeoutSeconds: 3
  failureThreshold: 2
lifecycle:
  # The Service forgets the pod before its doors close.
  preStop: {sleep: {seconds: {{ include "proxist.preStopSeconds" $ }}}}
securityContext:
  {{- include "proxist.containerSecurity" $ | nindent 2 }}
resources:
  {{- toYaml $values.resources | nindent 2 }}
volumeMounts:
  - {name: config-{{ .role }}, mountPath: /etc/proxist/{{ .role }}, readOnly: true}
  {{- if include "proxist.tls" $ }}
  - {name: tls, mountPath: /etc/proxist/tls, readOnly: true}
  {{- end }}
  {{- range $store, $secret := include "proxist.storeAuthorities" $ | fromYaml }}
  - {name: {{ $store }}-ca, mountPath: /etc/proxist/{{ $store }}-ca, readOnly: true}
  {{- end }}
  {{- if not $.Values.insecure }}
  - {name: auth, mountPath: /etc/proxist/auth, readOnly: true}
  {{- end }}
  - {name: run, mountPath: /run/proxist}
  - {name: tmp, mountPath: /tmp, subPath: {{ .container }}}
  {{- range .mounts }}
  - {{ toJson . }}
  {{- end }}
{{- end -}}

{{/* Variables and not the config file: pxctl reads them too, so that `kubectl exec … -- pxctl status` needs no flags. */}}
{{- define "proxist.identity" -}}
{{- if not .Values.insecure }}
- name: PROXIST_CLUSTER_SECRET_FILE
  value: /etc/proxist/auth/cluster-secret
{{- end }}
{{- if include "proxist.tls" . }}
- name: PROXIST_TLS_CERT
  value: /etc/proxist/tls/tls.crt
- name: PROXIST_TLS_KEY
  value: /etc/proxist/tls/tls.key
- name: PROXIST_TLS_CA
  value: /etc/proxist/tls/ca.crt
{{- end }}
{{- end -}}

{{/* (list $ roles): the volumes of a pod whose containers have these roles */}}
{{- define "proxist.volumes" -}}
{{- $ := index . 0 -}}
{{- range index . 1 }}
- name: config-{{ . }}
  configMap: {name: {{ include "proxist.name" (list $ .) }}}
{{- end }}
{{- if include "proxist.tls" $ }}
- name: tls
  secret: {secretName: {{ include "proxist.tlsSecret" $ }}, defaultMode: 0440}
{{- end }}
{{- range $store, $secret := include "proxist.storeAuthorities" $ | fromYaml }}
- name: {{ $store }}-ca
  secret: {secretName: {{ $secret }}, defaultMode: 0440, items: [{key: ca.crt, path: ca.crt}]}
{{- end }}
{{- if not $.Values.insecure }}
- name: auth
  secret: {secretName: {{ include "proxist.authSecret" $ }}, defaultMode: 0440}
{{- end }}
# Sockets and epoch pages, in memory. The hot sets are not here: their descriptors are passed through the sockets.
- name: run
  emptyDir: {medium: Memory, sizeLimit: 64Mi}
- name: tmp
  emptyDir: {sizeLimit: 2Gi}
{{- end -}}

{{/* (list $ role): the ConfigMap of a service */}}
{{- define "proxist.configMap" -}}
apiVersion: v1
kind: ConfigMap
metadata:
  {{- include "proxist.metadata" . | nindent 2 }}
data:
  config.yaml: |
    {{- include "proxist.config" . | nindent 4 }}
{{- end -}}

{{/* (list $ role): ports of a Service, all doors of a role, by the names that the containers give them */}}
{{- define "proxist.servicePorts" -}}
{{- $plain := not (include "proxist.tls" (index . 0)) -}}
{{- $role := index . 1 -}}
{{- range $door, $port := include "proxist.ports" $role | fromYaml -}}
- name: {{ $door }}
  port: {{ $port }}
  targetPort: {{ ternary (printf "query-%s" $door) $door (eq $role "query") }}
  {{- if and $plain (ne $door "http") }}
  appProtocol: kubernetes.io/h2c
  {{- end }}
{{ end -}}
{{- end -}}

{{/* (list $ role values): a Service for clients, where `values` says type and annotations */}}
{{- define "proxist.frontService" -}}
{{- $ := index . 0 -}}
{{- $role := index . 1 -}}
{{- $service := index . 2 -}}
apiVersion: v1
kind: Service
metadata:
  {{- include "proxist.metadata" (list $ $role (include "proxist.name" (list $ $role)) $service.annotations) | nindent 2 }}
spec:
  type: {{ $service.type }}
  selector:
    {{- if eq $role "query" }}
    app.kubernetes.io/name: {{ $.Chart.Name }}
    app.kubernetes.io/instance: {{ $.Release.Name }}
    proxist/answers: "true"
    {{- else }}
    {{- include "proxist.selector" (list $ $role) | nindent 4 }}
    {{- end }}
  ports:
    {{- include "proxist.servicePorts" (list $ $role) | trim | nindent 4 }}
{{- end -}}

{{/* (list $ role): names for single pods; also those that are not ready, which peers must reach too */}}
{{- define "proxist.headlessService" -}}
{{- $ := index . 0 -}}
{{- $role := index . 1 -}}
apiVersion: v1
kind: Service
metadata:
  {{- include "proxist.metadata" (list $ $role (printf "%s-pods" (include "proxist.name" (list $ $role))) (dict) (dict "proxist/scrape" "true")) | nindent 2 }}
spec:
  clusterIP: None
  publishNotReadyAddresses: true
  selector:
    {{- include "proxist.selector" (list $ $role) | nindent 4 }}
  ports:
    {{- include "proxist.servicePorts" (list $ $role) | trim | nindent 4 }}
{{- end -}}
