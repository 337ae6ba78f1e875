{{- define "gpulease.fullname" -}}
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

{{- /* A part's labels: dict "root" $ "part" "operator" */ -}}
{{- define "gpulease.selector" -}}
app.kubernetes.io/name: {{ default .root.Chart.Name .root.Values.nameOverride }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .part }}
{{- end -}}

{{- define "gpulease.labels" -}}
{{ include "gpulease.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "gpulease.image" -}}
{{ .Values.image.repository }}:{{ default .Chart.AppVersion .Values.image.tag }}
{{- end -}}

{{- define "gpulease.agentSecret" -}}
{{ default (printf "%s-agent-token" (include "gpulease.fullname" .)) .Values.agent.existingSecret }}
{{- end -}}

{{- define "gpulease.leaseRole" -}}
{{ include "gpulease.fullname" .root }}-{{ .part }}-in-lease
{{- end -}}

{{- define "gpulease.gatewayRuns" -}}
{{- if and .Values.gateway.enabled .Values.gateway.providerObject (has "provider" .Values.roles) -}}true{{- end -}}
{{- end -}}

{{- define "gpulease.priorityClass" -}}
{{- if .Values.priorityClass.existing -}}{{ .Values.priorityClass.existing }}
{{- else if .Values.priorityClass.create -}}{{ include "gpulease.fullname" . }}{{- end -}}
{{- end -}}

{{- /* What every pod of ours has, the agent apart: Pod Security "restricted" and nothing writable but what is mounted. */ -}}
{{- define "gpulease.podCommon" -}}
{{- with include "gpulease.priorityClass" . }}
priorityClassName: {{ . }}
{{- end }}
{{- with .Values.image.pullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
enableServiceLinks: false
{{- end -}}

{{- define "gpulease.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "gpulease.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{- define "gpulease.placement" -}}
{{- with .nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}
