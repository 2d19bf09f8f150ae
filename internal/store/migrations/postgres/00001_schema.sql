-- +goose Up
-- What each table and column means: docs/store.md.

CREATE TABLE counters (
  name VARCHAR(64) NOT NULL PRIMARY KEY,
  val BIGINT NOT NULL
);
INSERT INTO counters (name, val) VALUES ('jobs', 0), ('backups', 0), ('events', 0), ('audit', 0), ('resources', 0), ('deliveries', 0);

CREATE TABLE repositories (
  id VARCHAR(64) NOT NULL PRIMARY KEY,
  name VARCHAR(255) NOT NULL UNIQUE,
  kind VARCHAR(64) NOT NULL,
  location TEXT NOT NULL,
  options JSON,
  secrets BYTEA,
  scanned_at TIMESTAMPTZ,
  error_message TEXT,
  version BIGINT NOT NULL DEFAULT 1,
  created_at TIMESTAMPTZ NOT NULL,
  updated_at TIMESTAMPTZ NOT NULL
);

CREATE TABLE backups (
  id VARCHAR(64) NOT NULL PRIMARY KEY,
  seq BIGINT NOT NULL UNIQUE,
  repository_id VARCHAR(64) NOT NULL,
  external_id VARCHAR(255) NOT NULL,
  vm_name VARCHAR(255) NOT NULL,
  source_platform VARCHAR(64) NOT NULL DEFAULT '',
  backup_type VARCHAR(64) NOT NULL DEFAULT '',
  status VARCHAR(64) NOT NULL DEFAULT '',
  size_bytes BIGINT NOT NULL DEFAULT 0,
  disk_count BIGINT NOT NULL DEFAULT 0,
  taken_at TIMESTAMPTZ,
  detail TEXT,
  version BIGINT NOT NULL DEFAULT 1,
  created_at TIMESTAMPTZ NOT NULL,
  updated_at TIMESTAMPTZ NOT NULL,
  UNIQUE (repository_id, external_id),
  FOREIGN KEY (repository_id) REFERENCES repositories (id) ON DELETE CASCADE
);
CREATE INDEX backups_find ON backups (source_platform, seq);
CREATE INDEX backups_vm ON backups (vm_name, seq);
CREATE INDEX backups_taken ON backups (taken_at, seq);

CREATE TABLE backup_jobs (
  id VARCHAR(64) NOT NULL PRIMARY KEY,
  vm_context_id VARCHAR(255),
  vm_name VARCHAR(255) NOT NULL,
  source_platform VARCHAR(64) NOT NULL,
  repository_id VARCHAR(64),
  backup_type VARCHAR(64) NOT NULL DEFAULT 'full',
  status VARCHAR(64) NOT NULL,
  size_bytes BIGINT NOT NULL DEFAULT 0,
  total_bytes BIGINT NOT NULL DEFAULT 0,
  parent_backup_id VARCHAR(64),
  error_message TEXT,
  metadata JSON,
  created_at TIMESTAMPTZ NOT NULL,
  started_at TIMESTAMPTZ,
  completed_at TIMESTAMPTZ
);
CREATE INDEX backup_jobs_status ON backup_jobs (status);
CREATE INDEX backup_jobs_created ON backup_jobs (created_at);

CREATE TABLE targets (
  id VARCHAR(64) NOT NULL PRIMARY KEY,
  name VARCHAR(255) NOT NULL UNIQUE,
  platform VARCHAR(64) NOT NULL,
  settings JSON,
  secrets BYTEA,
  capabilities TEXT,
  inventory TEXT,
  checked_at TIMESTAMPTZ,
  error_message TEXT,
  version BIGINT NOT NULL DEFAULT 1,
  created_at TIMESTAMPTZ NOT NULL,
  updated_at TIMESTAMPTZ NOT NULL
);

CREATE TABLE plans (
  id VARCHAR(64) NOT NULL PRIMARY KEY,
  name VARCHAR(255) NOT NULL DEFAULT '',
  vm_name VARCHAR(255) NOT NULL DEFAULT '',
  target_name VARCHAR(255) NOT NULL DEFAULT '',
  created_by VARCHAR(255) NOT NULL DEFAULT '',
  body TEXT NOT NULL,
  created_at TIMESTAMPTZ NOT NULL
);
CREATE INDEX plans_created ON plans (created_at);

CREATE TABLE restore_jobs (
  id VARCHAR(64) NOT NULL PRIMARY KEY,
  backup_job_id VARCHAR(64),
  source_platform VARCHAR(64) NOT NULL DEFAULT '',
  target_platform VARCHAR(64) NOT NULL DEFAULT '',
  restore_type VARCHAR(64) NOT NULL DEFAULT 'full_vm',
  status VARCHAR(64) NOT NULL,
  target_config JSON,
  progress_percent NUMERIC(5,2) NOT NULL DEFAULT 0,
  estimated_completion TIMESTAMPTZ,
  error_message TEXT,
  target_vm_id VARCHAR(255),
  target_vm_name VARCHAR(255),
  created_at TIMESTAMPTZ NOT NULL,
  started_at TIMESTAMPTZ,
  completed_at TIMESTAMPTZ,
  seq BIGINT NOT NULL UNIQUE,
  idem_key VARCHAR(255) UNIQUE,
  backup_id VARCHAR(64),
  plan_id VARCHAR(64),
  vm_name VARCHAR(255) NOT NULL DEFAULT '',
  target_name VARCHAR(255) NOT NULL DEFAULT '',
  site VARCHAR(64) NOT NULL DEFAULT '',
  spec TEXT,
  created_by VARCHAR(255) NOT NULL DEFAULT '',
  keep_on_failure BOOLEAN NOT NULL DEFAULT FALSE,
  direction VARCHAR(64) NOT NULL DEFAULT 'forward',
  outcome VARCHAR(64) NOT NULL DEFAULT '',
  cancel_requested BOOLEAN NOT NULL DEFAULT FALSE,
  rolled_back BOOLEAN NOT NULL DEFAULT FALSE,
  drive BIGINT NOT NULL DEFAULT 0,
  driver VARCHAR(64) NOT NULL DEFAULT '',
  version BIGINT NOT NULL DEFAULT 1,
  updated_at TIMESTAMPTZ NOT NULL,
  FOREIGN KEY (backup_job_id) REFERENCES backup_jobs (id) ON DELETE CASCADE,
  FOREIGN KEY (plan_id) REFERENCES plans (id)
);
CREATE INDEX restore_jobs_status ON restore_jobs (status, seq);
CREATE INDEX restore_jobs_created ON restore_jobs (created_at, seq);
CREATE INDEX restore_jobs_target ON restore_jobs (target_platform, seq);
CREATE INDEX restore_jobs_source ON restore_jobs (source_platform, seq);
CREATE INDEX restore_jobs_vm ON restore_jobs (vm_name, seq);
CREATE INDEX restore_jobs_backup ON restore_jobs (backup_id);

CREATE TABLE restore_steps (
  id VARCHAR(64) NOT NULL PRIMARY KEY,
  restore_job_id VARCHAR(64) NOT NULL,
  step_name VARCHAR(255) NOT NULL,
  step_order BIGINT NOT NULL,
  status VARCHAR(64) NOT NULL,
  started_at TIMESTAMPTZ,
  completed_at TIMESTAMPTZ,
  error_message TEXT,
  metadata JSON,
  kind VARCHAR(64) NOT NULL,
  stage BIGINT NOT NULL DEFAULT 0,
  phase VARCHAR(64) NOT NULL DEFAULT '',
  input TEXT,
  max_attempts BIGINT NOT NULL,
  backoff_ms BIGINT NOT NULL,
  attempt BIGINT NOT NULL DEFAULT 0,
  tries BIGINT NOT NULL DEFAULT 0,
  undo_tries BIGINT NOT NULL DEFAULT 0,
  fence BIGINT NOT NULL DEFAULT 0,
  epoch BIGINT NOT NULL DEFAULT 0,
  attempt_id VARCHAR(64) NOT NULL DEFAULT '',
  worker VARCHAR(255) NOT NULL DEFAULT '',
  done BIGINT NOT NULL DEFAULT 0,
  best BIGINT NOT NULL DEFAULT 0,
  total BIGINT NOT NULL DEFAULT 0,
  retry_at TIMESTAMPTZ,
  updated_at TIMESTAMPTZ NOT NULL,
  UNIQUE (restore_job_id, step_name),
  UNIQUE (restore_job_id, step_order),
  FOREIGN KEY (restore_job_id) REFERENCES restore_jobs (id) ON DELETE CASCADE
);
CREATE INDEX restore_steps_status ON restore_steps (status);

CREATE TABLE checkpoints (
  step_id VARCHAR(64) NOT NULL PRIMARY KEY,
  fence BIGINT NOT NULL,
  data TEXT NOT NULL,
  saved_at TIMESTAMPTZ NOT NULL,
  FOREIGN KEY (step_id) REFERENCES restore_steps (id) ON DELETE CASCADE
);

CREATE TABLE resources (
  id VARCHAR(64) NOT NULL PRIMARY KEY,
  job_id VARCHAR(64) NOT NULL,
  seq BIGINT NOT NULL,
  kind VARCHAR(64) NOT NULL,
  name_key VARCHAR(64) NOT NULL,
  name TEXT NOT NULL,
  external_id TEXT,
  data TEXT,
  done BOOLEAN NOT NULL DEFAULT FALSE,
  gone BOOLEAN NOT NULL DEFAULT FALSE,
  created_at TIMESTAMPTZ NOT NULL,
  updated_at TIMESTAMPTZ NOT NULL,
  UNIQUE (job_id, kind, name_key),
  FOREIGN KEY (job_id) REFERENCES restore_jobs (id) ON DELETE CASCADE
);

CREATE TABLE job_blobs (
  job_id VARCHAR(64) NOT NULL,
  name VARCHAR(255) NOT NULL,
  chunk BIGINT NOT NULL,
  data BYTEA NOT NULL,
  PRIMARY KEY (job_id, name, chunk),
  FOREIGN KEY (job_id) REFERENCES restore_jobs (id) ON DELETE CASCADE
);

CREATE TABLE events (
  seq BIGINT NOT NULL PRIMARY KEY,
  id VARCHAR(64) NOT NULL UNIQUE,
  job_id VARCHAR(64) NOT NULL DEFAULT '',
  job_seq BIGINT NOT NULL DEFAULT 0,
  step_name VARCHAR(255) NOT NULL DEFAULT '',
  level VARCHAR(64) NOT NULL,
  kind VARCHAR(64) NOT NULL DEFAULT '',
  message TEXT NOT NULL,
  data TEXT,
  created_at TIMESTAMPTZ NOT NULL
);
CREATE INDEX events_job ON events (job_id, seq);

CREATE TABLE audit (
  seq BIGINT NOT NULL PRIMARY KEY,
  id VARCHAR(64) NOT NULL UNIQUE,
  actor VARCHAR(255) NOT NULL,
  actor_kind VARCHAR(64) NOT NULL DEFAULT '',
  action VARCHAR(255) NOT NULL,
  object_kind VARCHAR(64) NOT NULL DEFAULT '',
  object_id VARCHAR(255) NOT NULL DEFAULT '',
  remote VARCHAR(255) NOT NULL DEFAULT '',
  result VARCHAR(64) NOT NULL DEFAULT '',
  detail TEXT,
  created_at TIMESTAMPTZ NOT NULL
);
CREATE INDEX audit_object ON audit (object_kind, object_id);
CREATE INDEX audit_created ON audit (created_at);

CREATE TABLE users (
  id VARCHAR(64) NOT NULL PRIMARY KEY,
  name VARCHAR(255) NOT NULL UNIQUE,
  email VARCHAR(255) NOT NULL DEFAULT '',
  role VARCHAR(64) NOT NULL,
  password_hash TEXT,
  disabled BOOLEAN NOT NULL DEFAULT FALSE,
  last_seen_at TIMESTAMPTZ,
  version BIGINT NOT NULL DEFAULT 1,
  created_at TIMESTAMPTZ NOT NULL,
  updated_at TIMESTAMPTZ NOT NULL
);

CREATE TABLE identities (
  issuer VARCHAR(255) NOT NULL,
  subject VARCHAR(255) NOT NULL,
  user_id VARCHAR(64) NOT NULL,
  created_at TIMESTAMPTZ NOT NULL,
  PRIMARY KEY (issuer, subject),
  FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE
);

CREATE TABLE tokens (
  id VARCHAR(64) NOT NULL PRIMARY KEY,
  hash VARCHAR(64) NOT NULL UNIQUE,
  user_id VARCHAR(64),
  name VARCHAR(255) NOT NULL DEFAULT '',
  role VARCHAR(64) NOT NULL DEFAULT '',
  once BOOLEAN NOT NULL DEFAULT FALSE,
  revoked BOOLEAN NOT NULL DEFAULT FALSE,
  expires_at TIMESTAMPTZ,
  used_at TIMESTAMPTZ,
  created_at TIMESTAMPTZ NOT NULL,
  FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE
);

CREATE TABLE sessions (
  hash VARCHAR(64) NOT NULL PRIMARY KEY,
  user_id VARCHAR(64) NOT NULL,
  csrf VARCHAR(255) NOT NULL,
  remote VARCHAR(255) NOT NULL DEFAULT '',
  agent VARCHAR(255) NOT NULL DEFAULT '',
  expires_at TIMESTAMPTZ NOT NULL,
  seen_at TIMESTAMPTZ NOT NULL,
  created_at TIMESTAMPTZ NOT NULL,
  FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE
);
CREATE INDEX sessions_user ON sessions (user_id);
CREATE INDEX sessions_expires ON sessions (expires_at);

CREATE TABLE grants (
  user_id VARCHAR(64) NOT NULL,
  target_id VARCHAR(64) NOT NULL,
  role VARCHAR(64) NOT NULL,
  created_at TIMESTAMPTZ NOT NULL,
  PRIMARY KEY (user_id, target_id),
  FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE,
  FOREIGN KEY (target_id) REFERENCES targets (id) ON DELETE CASCADE
);

CREATE TABLE settings (
  name VARCHAR(255) NOT NULL PRIMARY KEY,
  body TEXT NOT NULL,
  version BIGINT NOT NULL DEFAULT 1,
  updated_at TIMESTAMPTZ NOT NULL
);

CREATE TABLE idempotency_keys (
  actor VARCHAR(64) NOT NULL,
  idem_key VARCHAR(64) NOT NULL,
  fingerprint VARCHAR(64) NOT NULL,
  status BIGINT NOT NULL DEFAULT 0,
  answer BYTEA,
  created_at TIMESTAMPTZ NOT NULL,
  expires_at TIMESTAMPTZ NOT NULL,
  PRIMARY KEY (actor, idem_key)
);
CREATE INDEX idempotency_expires ON idempotency_keys (expires_at);

CREATE TABLE deliveries (
  id VARCHAR(64) NOT NULL PRIMARY KEY,
  seq BIGINT NOT NULL UNIQUE,
  channel VARCHAR(255) NOT NULL,
  job_id VARCHAR(64) NOT NULL DEFAULT '',
  kind VARCHAR(64) NOT NULL,
  body TEXT NOT NULL,
  status VARCHAR(64) NOT NULL,
  attempt BIGINT NOT NULL DEFAULT 0,
  next_at TIMESTAMPTZ NOT NULL,
  error_message TEXT,
  created_at TIMESTAMPTZ NOT NULL,
  completed_at TIMESTAMPTZ
);
CREATE INDEX deliveries_due ON deliveries (status, next_at);
CREATE INDEX deliveries_job ON deliveries (job_id);

CREATE TABLE receipts (
  job_id VARCHAR(64) NOT NULL PRIMARY KEY,
  body BYTEA NOT NULL,
  created_at TIMESTAMPTZ NOT NULL,
  FOREIGN KEY (job_id) REFERENCES restore_jobs (id) ON DELETE CASCADE
);

CREATE TABLE rates (
  id VARCHAR(64) NOT NULL PRIMARY KEY,
  target VARCHAR(255) NOT NULL,
  kind VARCHAR(64) NOT NULL,
  bytes BIGINT NOT NULL,
  duration_ms BIGINT NOT NULL,
  created_at TIMESTAMPTZ NOT NULL
);
CREATE INDEX rates_target ON rates (target, kind, id);

CREATE TABLE mapping_sets (
  id VARCHAR(64) NOT NULL PRIMARY KEY,
  name VARCHAR(255) NOT NULL UNIQUE,
  target_id VARCHAR(64),
  body TEXT NOT NULL,
  version BIGINT NOT NULL DEFAULT 1,
  created_at TIMESTAMPTZ NOT NULL,
  updated_at TIMESTAMPTZ NOT NULL,
  FOREIGN KEY (target_id) REFERENCES targets (id) ON DELETE CASCADE
);

-- +goose Down
DROP TABLE mapping_sets;
DROP TABLE rates;
DROP TABLE receipts;
DROP TABLE deliveries;
DROP TABLE idempotency_keys;
DROP TABLE settings;
DROP TABLE grants;
DROP TABLE sessions;
DROP TABLE tokens;
DROP TABLE identities;
DROP TABLE users;
DROP TABLE audit;
DROP TABLE events;
DROP TABLE job_blobs;
DROP TABLE resources;
DROP TABLE checkpoints;
DROP TABLE restore_steps;
DROP TABLE restore_jobs;
DROP TABLE plans;
DROP TABLE targets;
DROP TABLE backup_jobs;
DROP TABLE backups;
DROP TABLE repositories;
DROP TABLE counters;
