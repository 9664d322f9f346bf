{{- define "beeyard.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* What selects the pods of a role; never changes over upgrades. Call with (dict "root" . "role" ROLE). */}}
{{- define "beeyard.selector" -}}
app.kubernetes.io/name: {{ .root.Chart.Name }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .role }}
{{- end -}}

{{- define "beeyard.labels" -}}
{{ include "beeyard.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end -}}

{{/* Call with (dict "root" . "repository" REPOSITORY). */}}
{{- define "beeyard.image" -}}
{{ .root.Values.image.registry }}{{ .repository }}:{{ .root.Values.image.tag | default .root.Chart.AppVersion }}
{{- end -}}

{{- define "beeyard.queenHost" -}}
{{ include "beeyard.fullname" . }}-queen
{{- end -}}

{{/* What every role is told. */}}
{{- define "beeyard.commonArgs" -}}
- --log-format=json
- --log-level={{ .Values.logLevel }}
{{- with .Values.otlpEndpoint }}
- --otlp-endpoint={{ . }}
{{- end }}
{{- end -}}

{{- define "beeyard.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{/* The images' user. Its group may read mounted secrets, others may not: keys that everybody can read are refused. */}}
{{- define "beeyard.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
{{- end -}}

{{/* Where pods go. Call with the role's values. */}}
{{- define "beeyard.placement" -}}
{{- with .nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* How Prometheus reads figures. Pods are asked by their addresses, for which no certificate is good, hence the name. */}}
{{- define "beeyard.scrape" -}}
scheme: https
path: /metrics
interval: {{ .root.Values.monitoring.interval }}
authorization:
  type: Bearer
  credentials: {name: {{ .root.Values.monitoring.tokenSecret }}, key: token}
tlsConfig:
  ca:
    secret: {name: {{ .root.Values.tls.caSecret }}, key: ca.crt}
  serverName: {{ .serverName }}
  {{- if eq .root.Values.tls.clientCerts "required" }}
  {{- $shown := required "monitoring.tlsSecret: tls.clientCerts is required, so Prometheus needs a certificate" .root.Values.monitoring.tlsSecret }}
  cert:
    secret: {name: {{ $shown }}, key: tls.crt}
  keySecret: {name: {{ $shown }}, key: tls.key}
  {{- end }}
{{- end -}}
