{{/* The beginning of every name: the release, and the chart where the release is not called so. */}}
{{- define "coldstart.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- $long := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) -}}
{{- default $long .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{/* The name of the operator's objects. */}}
{{- define "coldstart.operator" -}}
{{ include "coldstart.fullname" . }}-operator
{{- end -}}

{{/* The name of the webhook's objects. */}}
{{- define "coldstart.webhook" -}}
{{ include "coldstart.fullname" . }}-webhook
{{- end -}}

{{- define "coldstart.serviceAccount" -}}
{{- $made := ternary (include "coldstart.operator" .) "default" .Values.serviceAccount.create -}}
{{- default $made .Values.serviceAccount.name -}}
{{- end -}}

{{/* What never changes about the operator's pod. */}}
{{- define "coldstart.selector" -}}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end -}}

{{/* The labels of the pod: no versions, so that only what matters to it restarts it. */}}
{{- define "coldstart.podLabels" -}}
{{ include "coldstart.selector" . }}
app.kubernetes.io/part-of: coldstart
{{- end -}}

{{/* The labels of an object; the user's do not replace ours. */}}
{{- define "coldstart.labels" -}}
{{- $ours := fromYaml (include "coldstart.selector" .) -}}
{{- $_ := set $ours "helm.sh/chart" (printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_") -}}
{{- $_ := set $ours "app.kubernetes.io/version" .Chart.AppVersion -}}
{{- $_ := set $ours "app.kubernetes.io/part-of" "coldstart" -}}
{{- $_ := set $ours "app.kubernetes.io/managed-by" .Release.Service -}}
{{- merge $ours .Values.commonLabels | toYaml -}}
{{- end -}}

{{/* Repository and tag or digest: (dict "image" VALUE "context" $). */}}
{{- define "coldstart.image" -}}
{{- if .image.digest -}}
{{ .image.repository }}@{{ .image.digest }}
{{- else -}}
{{ .image.repository }}:{{ default .context.Chart.AppVersion .image.tag }}
{{- end -}}
{{- end -}}

{{/* What the operator does in a namespace; tests/operator/test_operator_rbac.py compares it with
what it asks for. */}}
{{- define "coldstart.rules" -}}
# delete: ttlSecondsAfterFinished
- apiGroups: [coldstart.dev]
  resources: [reasoningruns]
  verbs: [get, list, watch, delete]
- apiGroups: [coldstart.dev]
  resources: [reasoningruns/status]
  verbs: [patch]
# Jobs block the deletion of their run, which OwnerReferencesPermissionEnforcement asks this for.
- apiGroups: [coldstart.dev]
  resources: [reasoningruns/finalizers]
  verbs: [update]
- apiGroups: [kubeflow.org]
  resources: [pytorchjobs]
  verbs: [get, list, watch, create, delete]
- apiGroups: [batch]
  resources: [jobs]
  verbs: [get, list, watch, create, delete]
# The headless Service in which the pods of a Job find each other.
- apiGroups: [""]
  resources: [services]
  verbs: [get, create]
# What a stage ended with, and what its pods wait for.
- apiGroups: [""]
  resources: [pods]
  verbs: [list]
- apiGroups: [""]
  resources: [events]
  verbs: [list, create]
{{- end -}}

{{/* The Secret with the webhook's certificate. */}}
{{- define "coldstart.webhookSecret" -}}
{{- default (include "coldstart.webhook" .) .Values.webhook.secretName -}}
{{- end -}}
