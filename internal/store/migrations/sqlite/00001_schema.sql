-- +goose Up
-- What each table and column means: docs/store.md.

CREATE TABLE counters (
  name TEXT NOT NULL PRIMARY KEY,
  val INTEGER NOT NULL
);
INSERT INTO counters (name, val) VALUES ('jobs', 0), ('backups', 0), ('events', 0), ('audit', 0), ('resources', 0), ('deliveries', 0);

CREATE TABLE repositories (
  id TEXT NOT NULL PRIMARY KEY,
  name TEXT NOT NULL UNIQUE,
  kind TEXT NOT NULL,
  location TEXT NOT NULL,
  options TEXT,
  secrets BLOB,
  scanned_at TIMESTAMP,
  error_message TEXT,
  version INTEGER NOT NULL DEFAULT 1,
  created_at TIMESTAMP NOT NULL,
  updated_at TIMESTAMP NOT NULL
);

CREATE TABLE backups (
  id TEXT NOT NULL PRIMARY KEY,
  seq INTEGER NOT NULL UNIQUE,
  repository_id TEXT NOT NULL,
  external_id TEXT NOT NULL,
  vm_name TEXT NOT NULL,
  source_platform TEXT NOT NULL DEFAULT '',
  backup_type TEXT NOT NULL DEFAULT '',
  status TEXT NOT NULL DEFAULT '',
  size_bytes INTEGER NOT NULL DEFAULT 0,
  disk_count INTEGER NOT NULL DEFAULT 0,
  taken_at TIMESTAMP,
  detail TEXT,
  version INTEGER NOT NULL DEFAULT 1,
  created_at TIMESTAMP NOT NULL,
  updated_at TIMESTAMP NOT NULL,
  UNIQUE (repository_id, external_id),
  FOREIGN KEY (repository_id) REFERENCES repositories (id) ON DELETE CASCADE
);
CREATE INDEX backups_find ON backups (source_platform, seq);
CREATE INDEX backups_vm ON backups (vm_name, seq);
CREATE INDEX backups_taken ON backups (taken_at, seq);

CREATE TABLE backup_jobs (
  id TEXT NOT NULL PRIMARY KEY,
  vm_context_id TEXT,
  vm_name TEXT NOT NULL,
  source_platform TEXT NOT NULL,
  repository_id TEXT,
  backup_type TEXT NOT NULL DEFAULT 'full',
  status TEXT NOT NULL,
  size_bytes INTEGER NOT NULL DEFAULT 0,
  total_bytes INTEGER NOT NULL DEFAULT 0,
  parent_backup_id TEXT,
  error_message TEXT,
  metadata TEXT,
  created_at TIMESTAMP NOT NULL,
  started_at TIMESTAMP,
  completed_at TIMESTAMP
);
CREATE INDEX backup_jobs_status ON backup_jobs (status);
CREATE INDEX backup_jobs_created ON backup_jobs (created_at);

CREATE TABLE targets (
  id TEXT NOT NULL PRIMARY KEY,
  name TEXT NOT NULL UNIQUE,
  platform TEXT NOT NULL,
  settings TEXT,
  secrets BLOB,
  capabilities TEXT,
  inventory TEXT,
  checked_at TIMESTAMP,
  error_message TEXT,
  version INTEGER NOT NULL DEFAULT 1,
  created_at TIMESTAMP NOT NULL,
  updated_at TIMESTAMP NOT NULL
);

CREATE TABLE plans (
  id TEXT NOT NULL PRIMARY KEY,
  name TEXT NOT NULL DEFAULT '',
  vm_name TEXT NOT NULL DEFAULT '',
  target_name TEXT NOT NULL DEFAULT '',
  created_by TEXT NOT NULL DEFAULT '',
  body TEXT NOT NULL,
  created_at TIMESTAMP NOT NULL
);
CREATE INDEX plans_created ON plans (created_at);

CREATE TABLE restore_jobs (
  id TEXT NOT NULL PRIMARY KEY,
  backup_job_id TEXT,
  source_platform TEXT NOT NULL DEFAULT '',
  target_platform TEXT NOT NULL DEFAULT '',
  restore_type TEXT NOT NULL DEFAULT 'full_vm',
  status TEXT NOT NULL,
  target_config TEXT,
  progress_percent REAL NOT NULL DEFAULT 0,
  estimated_completion TIMESTAMP,
  error_message TEXT,
  target_vm_id TEXT,
  target_vm_name TEXT,
  created_at TIMESTAMP NOT NULL,
  started_at TIMESTAMP,
  completed_at TIMESTAMP,
  seq INTEGER NOT NULL UNIQUE,
  idem_key TEXT UNIQUE,
  backup_id TEXT,
  plan_id TEXT,
  vm_name TEXT NOT NULL DEFAULT '',
  target_name TEXT NOT NULL DEFAULT '',
  site TEXT NOT NULL DEFAULT '',
  spec TEXT,
  created_by TEXT NOT NULL DEFAULT '',
  keep_on_failure BOOLEAN NOT NULL DEFAULT FALSE,
  direction TEXT NOT NULL DEFAULT 'forward',
  outcome TEXT NOT NULL DEFAULT '',
  cancel_requested BOOLEAN NOT NULL DEFAULT FALSE,
  rolled_back BOOLEAN NOT NULL DEFAULT FALSE,
  drive INTEGER NOT NULL DEFAULT 0,
  driver TEXT NOT NULL DEFAULT '',
  version INTEGER NOT NULL DEFAULT 1,
  updated_at TIMESTAMP NOT NULL,
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
  id TEXT NOT NULL PRIMARY KEY,
  restore_job_id TEXT NOT NULL,
  step_name TEXT NOT NULL,
  step_order INTEGER NOT NULL,
  status TEXT NOT NULL,
  started_at TIMESTAMP,
  completed_at TIMESTAMP,
  error_message TEXT,
  metadata TEXT,
  kind TEXT NOT NULL,
  stage INTEGER NOT NULL DEFAULT 0,
  phase TEXT NOT NULL DEFAULT '',
  input TEXT,
  max_attempts INTEGER NOT NULL,
  backoff_ms INTEGER NOT NULL,
  attempt INTEGER NOT NULL DEFAULT 0,
  tries INTEGER NOT NULL DEFAULT 0,
  undo_tries INTEGER NOT NULL DEFAULT 0,
  fence INTEGER NOT NULL DEFAULT 0,
  epoch INTEGER NOT NULL DEFAULT 0,
  attempt_id TEXT NOT NULL DEFAULT '',
  worker TEXT NOT NULL DEFAULT '',
  done INTEGER NOT NULL DEFAULT 0,
  best INTEGER NOT NULL DEFAULT 0,
  total INTEGER NOT NULL DEFAULT 0,
  retry_at TIMESTAMP,
  updated_at TIMESTAMP NOT NULL,
  UNIQUE (restore_job_id, step_name),
  UNIQUE (restore_job_id, step_order),
  FOREIGN KEY (restore_job_id) REFERENCES restore_jobs (id) ON DELETE CASCADE
);
CREATE INDEX restore_steps_status ON restore_steps (status);

CREATE TABLE checkpoints (
  step_id TEXT NOT NULL PRIMARY KEY,
  fence INTEGER NOT NULL,
  data TEXT NOT NULL,
  saved_at TIMESTAMP NOT NULL,
  FOREIGN KEY (step_id) REFERENCES restore_steps (id) ON DELETE CASCADE
);

CREATE TABLE resources (
  id TEXT NOT NULL PRIMARY KEY,
  job_id TEXT NOT NULL,
  seq INTEGER NOT NULL,
  kind TEXT NOT NULL,
  name_key TEXT NOT NULL,
  name TEXT NOT NULL,
  external_id TEXT,
  data TEXT,
  done BOOLEAN NOT NULL DEFAULT FALSE,
  gone BOOLEAN NOT NULL DEFAULT FALSE,
  created_at TIMESTAMP NOT NULL,
  updated_at TIMESTAMP NOT NULL,
  UNIQUE (job_id, kind, name_key),
  FOREIGN KEY (job_id) REFERENCES restore_jobs (id) ON DELETE CASCADE
);

CREATE TABLE job_blobs (
  job_id TEXT NOT NULL,
  name TEXT NOT NULL,
  chunk INTEGER NOT NULL,
  data BLOB NOT NULL,
  PRIMARY KEY (job_id, name, chunk),
  FOREIGN KEY (job_id) REFERENCES restore_jobs (id) ON DELETE CASCADE
);

CREATE TABLE events (
  seq INTEGER NOT NULL PRIMARY KEY,
  id TEXT NOT NULL UNIQUE,
  job_id TEXT NOT NULL DEFAULT '',
  job_seq INTEGER NOT NULL DEFAULT 0,
  step_name TEXT NOT NULL DEFAULT '',
  level TEXT NOT NULL,
  kind TEXT NOT NULL DEFAULT '',
  message TEXT NOT NULL,
  data TEXT,
  created_at TIMESTAMP NOT NULL
);
CREATE INDEX events_job ON events (job_id, seq);

CREATE TABLE audit (
  seq INTEGER NOT NULL PRIMARY KEY,
  id TEXT NOT NULL UNIQUE,
  actor TEXT NOT NULL,
  actor_kind TEXT NOT NULL DEFAULT '',
  action TEXT NOT NULL,
  object_kind TEXT NOT NULL DEFAULT '',
  object_id TEXT NOT NULL DEFAULT '',
  remote TEXT NOT NULL DEFAULT '',
  result TEXT NOT NULL DEFAULT '',
  detail TEXT,
  created_at TIMESTAMP NOT NULL
);
CREATE INDEX audit_object ON audit (object_kind, object_id);
CREATE INDEX audit_created ON audit (created_at);

CREATE TABLE users (
  id TEXT NOT NULL PRIMARY KEY,
  name TEXT NOT NULL UNIQUE,
  email TEXT NOT NULL DEFAULT '',
  role TEXT NOT NULL,
  password_hash TEXT,
  disabled BOOLEAN NOT NULL DEFAULT FALSE,
  last_seen_at TIMESTAMP,
  version INTEGER NOT NULL DEFAULT 1,
  created_at TIMESTAMP NOT NULL,
  updated_at TIMESTAMP NOT NULL
);

CREATE TABLE identities (
  issuer TEXT NOT NULL,
  subject TEXT NOT NULL,
  user_id TEXT NOT NULL,
  created_at TIMESTAMP NOT NULL,
  PRIMARY KEY (issuer, subject),
  FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE
);

CREATE TABLE tokens (
  id TEXT NOT NULL PRIMARY KEY,
  hash TEXT NOT NULL UNIQUE,
  user_id TEXT,
  name TEXT NOT NULL DEFAULT '',
  role TEXT NOT NULL DEFAULT '',
  once BOOLEAN NOT NULL DEFAULT FALSE,
  revoked BOOLEAN NOT NULL DEFAULT FALSE,
  expires_at TIMESTAMP,
  used_at TIMESTAMP,
  created_at TIMESTAMP NOT NULL,
  FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE
);

CREATE TABLE sessions (
  hash TEXT NOT NULL PRIMARY KEY,
  user_id TEXT NOT NULL,
  csrf TEXT NOT NULL,
  remote TEXT NOT NULL DEFAULT '',
  agent TEXT NOT NULL DEFAULT '',
  expires_at TIMESTAMP NOT NULL,
  seen_at TIMESTAMP NOT NULL,
  created_at TIMESTAMP NOT NULL,
  FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE
);
CREATE INDEX sessions_user ON sessions (user_id);
CREATE INDEX sessions_expires ON sessions (expires_at);

CREATE TABLE grants (
  user_id TEXT NOT NULL,
  target_id TEXT NOT NULL,
  role TEXT NOT NULL,
  created_at TIMESTAMP NOT NULL,
  PRIMARY KEY (user_id, target_id),
  FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE,
  FOREIGN KEY (target_id) REFERENCES targets (id) ON DELETE CASCADE
);

CREATE TABLE settings (
  name TEXT NOT NULL PRIMARY KEY,
  body TEXT NOT NULL,
  version INTEGER NOT NULL DEFAULT 1,
  updated_at TIMESTAMP NOT NULL
);

CREATE TABLE idempotency_keys (
  actor TEXT NOT NULL,
  idem_key TEXT NOT NULL,
  fingerprint TEXT NOT NULL,
  status INTEGER NOT NULL DEFAULT 0,
  answer BLOB,
  created_at TIMESTAMP NOT NULL,
  expires_at TIMESTAMP NOT NULL,
  PRIMARY KEY (actor, idem_key)
);
CREATE INDEX idempotency_expires ON idempotency_keys (expires_at);

CREATE TABLE deliveries (
  id TEXT NOT NULL PRIMARY KEY,
  seq INTEGER NOT NULL UNIQUE,
  channel TEXT NOT NULL,
  job_id TEXT NOT NULL DEFAULT '',
  kind TEXT NOT NULL,
  body TEXT NOT NULL,
  status TEXT NOT NULL,
  attempt INTEGER NOT NULL DEFAULT 0,
  next_at TIMESTAMP NOT NULL,
  error_message TEXT,
  created_at TIMESTAMP NOT NULL,
  completed_at TIMESTAMP
);
CREATE INDEX deliveries_due ON deliveries (status, next_at);
CREATE INDEX deliveries_job ON deliveries (job_id);

CREATE TABLE receipts (
  job_id TEXT NOT NULL PRIMARY KEY,
  body BLOB NOT NULL,
  created_at TIMESTAMP NOT NULL,
  FOREIGN KEY (job_id) REFERENCES restore_jobs (id) ON DELETE CASCADE
);

CREATE TABLE rates (
  id TEXT NOT NULL PRIMARY KEY,
  target TEXT NOT NULL,
  kind TEXT NOT NULL,
  bytes INTEGER NOT NULL,
  duration_ms INTEGER NOT NULL,
  created_at TIMESTAMP NOT NULL
);
CREATE INDEX rates_target ON rates (target, kind, id);

CREATE TABLE mapping_sets (
  id TEXT NOT NULL PRIMARY KEY,
  name TEXT NOT NULL UNIQUE,
  target_id TEXT,
  body TEXT NOT NULL,
  version INTEGER NOT NULL DEFAULT 1,
  created_at TIMESTAMP NOT NULL,
  updated_at TIMESTAMP NOT NULL,
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
