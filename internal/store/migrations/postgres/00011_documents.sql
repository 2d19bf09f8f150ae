-- +goose Up
-- The documents of the server: a table per kind, whose columns repeat what a
-- document says; see documents.go. In place of tables that nothing wrote to.

ALTER TABLE restore_jobs DROP CONSTRAINT restore_jobs_plan_id_fkey;
DROP TABLE mapping_sets;
DROP TABLE deliveries;
DROP TABLE idempotency_keys;
DROP TABLE settings;
DROP TABLE grants;
DROP TABLE sessions;
DROP TABLE tokens;
DROP TABLE identities;
DROP TABLE users;
DROP TABLE plans;
DROP TABLE targets;

CREATE TABLE users (
  id VARCHAR(255) COLLATE "C" NOT NULL PRIMARY KEY,
  ref VARCHAR(255) COLLATE "C" NOT NULL DEFAULT '',
  version BIGINT NOT NULL,
  name VARCHAR(255) COLLATE "C" NOT NULL DEFAULT '',
  email VARCHAR(255) COLLATE "C" NOT NULL DEFAULT '',
  role VARCHAR(255) COLLATE "C" NOT NULL DEFAULT '',
  subject VARCHAR(255) COLLATE "C" NOT NULL DEFAULT '',
  disabled BOOLEAN NOT NULL DEFAULT FALSE,
  last_seen_at TIMESTAMPTZ,
  data TEXT NOT NULL,
  expires_at TIMESTAMPTZ,
  created_at TIMESTAMPTZ NOT NULL,
  updated_at TIMESTAMPTZ NOT NULL
);
CREATE INDEX users_ref ON users (ref, id);
CREATE INDEX users_expires ON users (expires_at);
CREATE INDEX users_name ON users (name);
CREATE INDEX users_subject ON users (subject);
INSERT INTO users (id, ref, version, data, expires_at, created_at, updated_at, name, email, role, subject, disabled)
  SELECT id, ref, version, convert_from(data, 'UTF8'), expires_at, created_at, updated_at,
    COALESCE(left((convert_from(data, 'UTF8')::json #>> '{name}'), 255), ''),
    COALESCE(left((convert_from(data, 'UTF8')::json #>> '{email}'), 255), ''),
    COALESCE(left((convert_from(data, 'UTF8')::json #>> '{role}'), 255), ''),
    COALESCE(left((convert_from(data, 'UTF8')::json #>> '{subject}'), 255), ''),
    COALESCE((convert_from(data, 'UTF8')::json #>> '{disabled}')::boolean, FALSE)
  FROM records WHERE kind = 'user';
DELETE FROM records WHERE kind = 'user';

CREATE TABLE tokens (
  id VARCHAR(255) COLLATE "C" NOT NULL PRIMARY KEY,
  ref VARCHAR(255) COLLATE "C" NOT NULL DEFAULT '',
  version BIGINT NOT NULL,
  name VARCHAR(255) COLLATE "C" NOT NULL DEFAULT '',
  user_id VARCHAR(255) COLLATE "C" NOT NULL DEFAULT '',
  role VARCHAR(255) COLLATE "C" NOT NULL DEFAULT '',
  hash VARCHAR(255) COLLATE "C" NOT NULL DEFAULT '',
  used_at TIMESTAMPTZ,
  data TEXT NOT NULL,
  expires_at TIMESTAMPTZ,
  created_at TIMESTAMPTZ NOT NULL,
  updated_at TIMESTAMPTZ NOT NULL
);
CREATE INDEX tokens_ref ON tokens (ref, id);
CREATE INDEX tokens_expires ON tokens (expires_at);
CREATE INDEX tokens_hash ON tokens (hash);
CREATE INDEX tokens_user_id ON tokens (user_id);
INSERT INTO tokens (id, ref, version, data, expires_at, created_at, updated_at, name, user_id, role, hash)
  SELECT id, ref, version, convert_from(data, 'UTF8'), expires_at, created_at, updated_at,
    COALESCE(left((convert_from(data, 'UTF8')::json #>> '{name}'), 255), ''),
    COALESCE(left((convert_from(data, 'UTF8')::json #>> '{user}'), 255), ''),
    COALESCE(left((convert_from(data, 'UTF8')::json #>> '{role}'), 255), ''),
    COALESCE(left((convert_from(data, 'UTF8')::json #>> '{hash}'), 255), '')
  FROM records WHERE kind = 'token';
DELETE FROM records WHERE kind = 'token';

CREATE TABLE sessions (
  id VARCHAR(255) COLLATE "C" NOT NULL PRIMARY KEY,
  ref VARCHAR(255) COLLATE "C" NOT NULL DEFAULT '',
  version BIGINT NOT NULL,
  user_id VARCHAR(255) COLLATE "C" NOT NULL DEFAULT '',
  remote VARCHAR(255) COLLATE "C" NOT NULL DEFAULT '',
  agent VARCHAR(255) COLLATE "C" NOT NULL DEFAULT '',
  used_at TIMESTAMPTZ,
  data TEXT NOT NULL,
  expires_at TIMESTAMPTZ,
  created_at TIMESTAMPTZ NOT NULL,
  updated_at TIMESTAMPTZ NOT NULL
);
CREATE INDEX sessions_ref ON sessions (ref, id);
CREATE INDEX sessions_expires ON sessions (expires_at);
CREATE INDEX sessions_user_id ON sessions (user_id);
INSERT INTO sessions (id, ref, version, data, expires_at, created_at, updated_at, user_id, remote, agent)
  SELECT id, ref, version, convert_from(data, 'UTF8'), expires_at, created_at, updated_at,
    COALESCE(left((convert_from(data, 'UTF8')::json #>> '{user}'), 255), ''),
    COALESCE(left((convert_from(data, 'UTF8')::json #>> '{address}'), 255), ''),
    COALESCE(left((convert_from(data, 'UTF8')::json #>> '{agent}'), 255), '')
  FROM records WHERE kind = 'session';
DELETE FROM records WHERE kind = 'session';

CREATE TABLE targets (
  id VARCHAR(255) COLLATE "C" NOT NULL PRIMARY KEY,
  ref VARCHAR(255) COLLATE "C" NOT NULL DEFAULT '',
  version BIGINT NOT NULL,
  platform VARCHAR(255) COLLATE "C" NOT NULL DEFAULT '',
  healthy BOOLEAN NOT NULL DEFAULT FALSE,
  checked_at TIMESTAMPTZ,
  data TEXT NOT NULL,
  expires_at TIMESTAMPTZ,
  created_at TIMESTAMPTZ NOT NULL,
  updated_at TIMESTAMPTZ NOT NULL
);
CREATE INDEX targets_ref ON targets (ref, id);
CREATE INDEX targets_expires ON targets (expires_at);
INSERT INTO targets (id, ref, version, data, expires_at, created_at, updated_at, platform, healthy)
  SELECT id, ref, version, convert_from(data, 'UTF8'), expires_at, created_at, updated_at,
    COALESCE(left((convert_from(data, 'UTF8')::json #>> '{platform}'), 255), ''),
    COALESCE((convert_from(data, 'UTF8')::json #>> '{healthy}')::boolean, FALSE)
  FROM records WHERE kind = 'target';
DELETE FROM records WHERE kind = 'target';

CREATE TABLE mapping_sets (
  id VARCHAR(255) COLLATE "C" NOT NULL PRIMARY KEY,
  ref VARCHAR(255) COLLATE "C" NOT NULL DEFAULT '',
  version BIGINT NOT NULL,
  note VARCHAR(255) COLLATE "C" NOT NULL DEFAULT '',
  data TEXT NOT NULL,
  expires_at TIMESTAMPTZ,
  created_at TIMESTAMPTZ NOT NULL,
  updated_at TIMESTAMPTZ NOT NULL
);
CREATE INDEX mapping_sets_ref ON mapping_sets (ref, id);
CREATE INDEX mapping_sets_expires ON mapping_sets (expires_at);
INSERT INTO mapping_sets (id, ref, version, data, expires_at, created_at, updated_at, note)
  SELECT id, ref, version, convert_from(data, 'UTF8'), expires_at, created_at, updated_at,
    COALESCE(left((convert_from(data, 'UTF8')::json #>> '{note}'), 255), '')
  FROM records WHERE kind = 'mapping';
DELETE FROM records WHERE kind = 'mapping';

CREATE TABLE plans (
  id VARCHAR(255) COLLATE "C" NOT NULL PRIMARY KEY,
  ref VARCHAR(255) COLLATE "C" NOT NULL DEFAULT '',
  version BIGINT NOT NULL,
  backup_id VARCHAR(255) COLLATE "C" NOT NULL DEFAULT '',
  target_name VARCHAR(255) COLLATE "C" NOT NULL DEFAULT '',
  created_by VARCHAR(255) COLLATE "C" NOT NULL DEFAULT '',
  job_id VARCHAR(255) COLLATE "C" NOT NULL DEFAULT '',
  data TEXT NOT NULL,
  expires_at TIMESTAMPTZ,
  created_at TIMESTAMPTZ NOT NULL,
  updated_at TIMESTAMPTZ NOT NULL
);
CREATE INDEX plans_ref ON plans (ref, id);
CREATE INDEX plans_expires ON plans (expires_at);
CREATE INDEX plans_job_id ON plans (job_id);
INSERT INTO plans (id, ref, version, data, expires_at, created_at, updated_at, backup_id, target_name, created_by, job_id)
  SELECT id, ref, version, convert_from(data, 'UTF8'), expires_at, created_at, updated_at,
    COALESCE(left((convert_from(data, 'UTF8')::json #>> '{backup}'), 255), ''),
    COALESCE(left((convert_from(data, 'UTF8')::json #>> '{target}'), 255), ''),
    COALESCE(left((convert_from(data, 'UTF8')::json #>> '{by}'), 255), ''),
    COALESCE(left((convert_from(data, 'UTF8')::json #>> '{job}'), 255), '')
  FROM records WHERE kind = 'plan';
DELETE FROM records WHERE kind = 'plan';

CREATE TABLE channels (
  id VARCHAR(255) COLLATE "C" NOT NULL PRIMARY KEY,
  ref VARCHAR(255) COLLATE "C" NOT NULL DEFAULT '',
  version BIGINT NOT NULL,
  kind VARCHAR(255) COLLATE "C" NOT NULL DEFAULT '',
  address VARCHAR(255) COLLATE "C" NOT NULL DEFAULT '',
  disabled BOOLEAN NOT NULL DEFAULT FALSE,
  data TEXT NOT NULL,
  expires_at TIMESTAMPTZ,
  created_at TIMESTAMPTZ NOT NULL,
  updated_at TIMESTAMPTZ NOT NULL
);
CREATE INDEX channels_ref ON channels (ref, id);
CREATE INDEX channels_expires ON channels (expires_at);
INSERT INTO channels (id, ref, version, data, expires_at, created_at, updated_at, kind, address, disabled)
  SELECT id, ref, version, convert_from(data, 'UTF8'), expires_at, created_at, updated_at,
    COALESCE(left((convert_from(data, 'UTF8')::json #>> '{kind}'), 255), ''),
    COALESCE(left((convert_from(data, 'UTF8')::json #>> '{host}'), 255), ''),
    COALESCE((convert_from(data, 'UTF8')::json #>> '{disabled}')::boolean, FALSE)
  FROM records WHERE kind = 'channel';
DELETE FROM records WHERE kind = 'channel';

CREATE TABLE deliveries (
  id VARCHAR(255) COLLATE "C" NOT NULL PRIMARY KEY,
  ref VARCHAR(255) COLLATE "C" NOT NULL DEFAULT '',
  version BIGINT NOT NULL,
  channel VARCHAR(255) COLLATE "C" NOT NULL DEFAULT '',
  job_id VARCHAR(255) COLLATE "C" NOT NULL DEFAULT '',
  status VARCHAR(255) COLLATE "C" NOT NULL DEFAULT '',
  attempts BIGINT NOT NULL DEFAULT 0,
  next_at TIMESTAMPTZ,
  sent_at TIMESTAMPTZ,
  error_message VARCHAR(255) COLLATE "C" NOT NULL DEFAULT '',
  data TEXT NOT NULL,
  expires_at TIMESTAMPTZ,
  created_at TIMESTAMPTZ NOT NULL,
  updated_at TIMESTAMPTZ NOT NULL
);
CREATE INDEX deliveries_ref ON deliveries (ref, id);
CREATE INDEX deliveries_expires ON deliveries (expires_at);
CREATE INDEX deliveries_job_id ON deliveries (job_id);
INSERT INTO deliveries (id, ref, version, data, expires_at, created_at, updated_at, channel, job_id, status, attempts, error_message)
  SELECT id, ref, version, convert_from(data, 'UTF8'), expires_at, created_at, updated_at,
    COALESCE(left((convert_from(data, 'UTF8')::json #>> '{channel}'), 255), ''),
    COALESCE(left((convert_from(data, 'UTF8')::json #>> '{message,job}'), 255), ''),
    COALESCE(left((convert_from(data, 'UTF8')::json #>> '{state}'), 255), ''),
    COALESCE((convert_from(data, 'UTF8')::json #>> '{attempts}')::bigint, 0),
    COALESCE(left((convert_from(data, 'UTF8')::json #>> '{error}'), 255), '')
  FROM records WHERE kind = 'delivery';
DELETE FROM records WHERE kind = 'delivery';

CREATE TABLE idempotency_keys (
  id VARCHAR(255) COLLATE "C" NOT NULL PRIMARY KEY,
  ref VARCHAR(255) COLLATE "C" NOT NULL DEFAULT '',
  version BIGINT NOT NULL,
  done BOOLEAN NOT NULL DEFAULT FALSE,
  status BIGINT NOT NULL DEFAULT 0,
  data TEXT NOT NULL,
  expires_at TIMESTAMPTZ,
  created_at TIMESTAMPTZ NOT NULL,
  updated_at TIMESTAMPTZ NOT NULL
);
CREATE INDEX idempotency_keys_ref ON idempotency_keys (ref, id);
CREATE INDEX idempotency_keys_expires ON idempotency_keys (expires_at);
INSERT INTO idempotency_keys (id, ref, version, data, expires_at, created_at, updated_at, done, status)
  SELECT id, ref, version, convert_from(data, 'UTF8'), expires_at, created_at, updated_at,
    COALESCE((convert_from(data, 'UTF8')::json #>> '{done}')::boolean, FALSE),
    COALESCE((convert_from(data, 'UTF8')::json #>> '{status}')::bigint, 0)
  FROM records WHERE kind = 'replay';
DELETE FROM records WHERE kind = 'replay';

CREATE TABLE settings (
  id VARCHAR(255) COLLATE "C" NOT NULL PRIMARY KEY,
  ref VARCHAR(255) COLLATE "C" NOT NULL DEFAULT '',
  version BIGINT NOT NULL,
  data TEXT NOT NULL,
  expires_at TIMESTAMPTZ,
  created_at TIMESTAMPTZ NOT NULL,
  updated_at TIMESTAMPTZ NOT NULL
);
CREATE INDEX settings_ref ON settings (ref, id);
CREATE INDEX settings_expires ON settings (expires_at);
INSERT INTO settings (id, ref, version, data, expires_at, created_at, updated_at)
  SELECT id, ref, version, convert_from(data, 'UTF8'), expires_at, created_at, updated_at
  FROM records WHERE kind = 'settings';
DELETE FROM records WHERE kind = 'settings';

ALTER TABLE records ALTER COLUMN data TYPE TEXT USING convert_from(data, 'UTF8');
ALTER TABLE restore_jobs ADD CONSTRAINT restore_jobs_plan_id_fkey FOREIGN KEY (plan_id) REFERENCES plans (id);

-- +goose Down
ALTER TABLE restore_jobs DROP CONSTRAINT restore_jobs_plan_id_fkey;
ALTER TABLE records ALTER COLUMN data TYPE BYTEA USING convert_to(data, 'UTF8');
INSERT INTO records (kind, id, ref, version, data, expires_at, created_at, updated_at) SELECT 'user', id, ref, version, convert_to(data, 'UTF8'), expires_at, created_at, updated_at FROM users;
DROP TABLE users;
INSERT INTO records (kind, id, ref, version, data, expires_at, created_at, updated_at) SELECT 'token', id, ref, version, convert_to(data, 'UTF8'), expires_at, created_at, updated_at FROM tokens;
DROP TABLE tokens;
INSERT INTO records (kind, id, ref, version, data, expires_at, created_at, updated_at) SELECT 'session', id, ref, version, convert_to(data, 'UTF8'), expires_at, created_at, updated_at FROM sessions;
DROP TABLE sessions;
INSERT INTO records (kind, id, ref, version, data, expires_at, created_at, updated_at) SELECT 'target', id, ref, version, convert_to(data, 'UTF8'), expires_at, created_at, updated_at FROM targets;
DROP TABLE targets;
INSERT INTO records (kind, id, ref, version, data, expires_at, created_at, updated_at) SELECT 'mapping', id, ref, version, convert_to(data, 'UTF8'), expires_at, created_at, updated_at FROM mapping_sets;
DROP TABLE mapping_sets;
INSERT INTO records (kind, id, ref, version, data, expires_at, created_at, updated_at) SELECT 'plan', id, ref, version, convert_to(data, 'UTF8'), expires_at, created_at, updated_at FROM plans;
DROP TABLE plans;
INSERT INTO records (kind, id, ref, version, data, expires_at, created_at, updated_at) SELECT 'channel', id, ref, version, convert_to(data, 'UTF8'), expires_at, created_at, updated_at FROM channels;
DROP TABLE channels;
INSERT INTO records (kind, id, ref, version, data, expires_at, created_at, updated_at) SELECT 'delivery', id, ref, version, convert_to(data, 'UTF8'), expires_at, created_at, updated_at FROM deliveries;
DROP TABLE deliveries;
INSERT INTO records (kind, id, ref, version, data, expires_at, created_at, updated_at) SELECT 'replay', id, ref, version, convert_to(data, 'UTF8'), expires_at, created_at, updated_at FROM idempotency_keys;
DROP TABLE idempotency_keys;
INSERT INTO records (kind, id, ref, version, data, expires_at, created_at, updated_at) SELECT 'settings', id, ref, version, convert_to(data, 'UTF8'), expires_at, created_at, updated_at FROM settings;
DROP TABLE settings;

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

ALTER TABLE restore_jobs ADD CONSTRAINT restore_jobs_plan_id_fkey FOREIGN KEY (plan_id) REFERENCES plans (id);
