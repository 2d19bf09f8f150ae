{{- define "ascend.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{- define "ascend.labels" -}}
app.kubernetes.io/name: ascend
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Values.image.tag | default .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "ascend.environment" -}}
- {name: ASCEND_ENGINE, value: temporal}
- {name: ASCEND_TEMPORAL_ADDRESS, value: {{ .Values.temporal.address | quote }}}
- {name: ASCEND_TEMPORAL_NAMESPACE, value: {{ .Values.temporal.namespace | quote }}}
# A file of a volume with fsGroup can be read by its group, which a key may not.
- {name: ASCEND_KEY_SOURCE, value: "env:ASCEND_KEY"}
- name: ASCEND_KEY
  valueFrom: {secretKeyRef: {name: {{ .Values.secret | quote }}, key: key}}
{{- end }}

{{- define "ascend.security" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{- define "ascend.mounts" -}}
- {name: shared, mountPath: /run/ascend, readOnly: true}
- {name: data, mountPath: /var/lib/ascend}
- {name: tmp, mountPath: /tmp}
{{- range .Values.repositories }}
- {name: {{ printf "repo-%s" .name }}, mountPath: {{ .path | quote }}, readOnly: true}
{{- end }}
{{- end }}

{{- define "ascend.volumes" -}}
- name: shared
  secret: {secretName: {{ .Values.secret | quote }}, defaultMode: 0440, items: [{key: database, path: database}]}
- {name: tmp, emptyDir: {}}
{{- range .Values.repositories }}
- name: {{ printf "repo-%s" .name }}
  {{- toYaml .volume | nindent 2 }}
{{- end }}
{{- end }}
