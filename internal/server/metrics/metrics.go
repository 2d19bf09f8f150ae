// Package metrics counts what the server does, for Prometheus.
package metrics

import (
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"ascend/internal/server/jobs"
)

// Metrics are the server's. Safe for concurrent use.
type Metrics struct {
	registry *prometheus.Registry
	active   *prometheus.GaugeVec     // target, status
	rate     *prometheus.GaugeVec     // target
	ended    *prometheus.CounterVec   // target, status
	jobTime  *prometheus.HistogramVec // target, status
	bytes    *prometheus.CounterVec   // target, step
	steps    *prometheus.CounterVec   // target, step, status
	retries  *prometheus.CounterVec   // target, step
	stepTime *prometheus.HistogramVec // target, step
	requests *prometheus.HistogramVec // route, method, status

	mu   sync.Mutex
	seen map[string]*seen // by job
}

// seen is what was counted of a job already.
type seen struct {
	target, status string
	rate           float64
	steps          map[string]step
}

type step struct {
	status  string
	attempt int
	done    int64
}

// Times of jobs and steps, in seconds: from one to about a day.
var long = []float64{1, 5, 15, 60, 300, 900, 3600, 4 * 3600, 12 * 3600, 24 * 3600}

// New makes the metrics.
func New(version string) *Metrics {
	m := &Metrics{registry: prometheus.NewRegistry(), seen: map[string]*seen{}}
	gauge := func(name, help string, labels ...string) *prometheus.GaugeVec {
		v := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: help}, labels)
		m.registry.MustRegister(v)
		return v
	}
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		v := prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
		m.registry.MustRegister(v)
		return v
	}
	histogram := func(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
		v := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets}, labels)
		m.registry.MustRegister(v)
		return v
	}
	m.active = gauge("ascend_jobs_active", "Restores that are not at rest.", "target", "status")
	m.rate = gauge("ascend_transfer_bytes_per_second", "Allocated bytes a second now.", "target")
	m.ended = counter("ascend_jobs_total", "Restores that came to rest.", "target", "status")
	m.jobTime = histogram("ascend_job_duration_seconds", "Time from the start of a restore to its rest.", long, "target", "status")
	m.bytes = counter("ascend_step_bytes_total", "Allocated bytes that steps have done.", "target", "step")
	m.steps = counter("ascend_steps_total", "Steps that ended.", "target", "step", "status")
	m.retries = counter("ascend_step_retries_total", "Attempts of steps after their first.", "target", "step")
	m.stepTime = histogram("ascend_step_duration_seconds", "Time from the start of a step to its end.", long, "target", "step")
	m.requests = histogram("ascend_http_request_duration_seconds", "Time to answer requests.", prometheus.DefBuckets, "method", "route", "status")
	build := gauge("ascend_build_info", "What runs.", "version")
	build.WithLabelValues(version).Set(1)
	m.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// Handler answers Prometheus.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{EnableOpenMetrics: true})
}

// Request counts an answer.
func (m *Metrics) Request(method, route string, status int, took time.Duration) {
	m.requests.WithLabelValues(method, route, strconv.Itoa(status)).Observe(took.Seconds())
}

// Look counts what is new of a job.
func (m *Metrics) Look(j jobs.Job, steps []jobs.Step) {
	m.mu.Lock()
	defer m.mu.Unlock()
	target := j.Target.Name
	s := m.seen[j.ID]
	if s == nil {
		s = &seen{target: target, steps: map[string]step{}}
		m.seen[j.ID] = s
		for _, t := range steps { // what was before this process is not counted again
			s.steps[t.Name] = step{t.Status, t.Attempt, t.Done}
		}
	} else {
		m.active.WithLabelValues(target, s.status).Dec()
		m.rate.WithLabelValues(target).Sub(s.rate)
	}
	fresh := s.status != j.Status
	s.status, s.rate = j.Status, float64(j.Rate)
	for _, t := range steps {
		m.step(target, s.steps[t.Name], t)
		s.steps[t.Name] = step{t.Status, t.Attempt, t.Done}
	}
	if !jobs.Resting(j.Status) {
		m.active.WithLabelValues(target, s.status).Inc()
		m.rate.WithLabelValues(target).Add(s.rate)
		return
	}
	delete(m.seen, j.ID)
	if fresh {
		m.ended.WithLabelValues(target, j.Status).Inc()
		if j.Started != nil && j.Finished != nil {
			m.jobTime.WithLabelValues(target, j.Status).Observe(j.Finished.Sub(*j.Started).Seconds())
		}
	}
}

func (m *Metrics) step(target string, was step, t jobs.Step) {
	if d := t.Done - was.done; d > 0 && t.Total > 1 {
		m.bytes.WithLabelValues(target, t.Kind).Add(float64(d))
	}
	if t.Attempt > max(was.attempt, 1) {
		m.retries.WithLabelValues(target, t.Kind).Add(float64(t.Attempt - max(was.attempt, 1)))
	}
	if t.Status != was.status && t.Finished != nil && (t.Status == "completed" || t.Status == "failed") {
		m.steps.WithLabelValues(target, t.Kind, t.Status).Inc()
		if t.Started != nil {
			m.stepTime.WithLabelValues(target, t.Kind).Observe(t.Finished.Sub(*t.Started).Seconds())
		}
	}
}
