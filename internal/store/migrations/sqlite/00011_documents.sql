-- +goose Up
-- The documents of the server: a table per kind, whose columns repeat what a
-- document says; see documents.go. In place of tables that nothing wrote to.

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
  id TEXT NOT NULL PRIMARY KEY,
  ref TEXT NOT NULL DEFAULT '',
  version INTEGER NOT NULL,
  name TEXT NOT NULL DEFAULT '',
  email TEXT NOT NULL DEFAULT '',
  role TEXT NOT NULL DEFAULT '',
  subject TEXT NOT NULL DEFAULT '',
  disabled BOOLEAN NOT NULL DEFAULT FALSE,
  last_seen_at TIMESTAMP,
  data TEXT NOT NULL,
  expires_at TIMESTAMP,
  created_at TIMESTAMP NOT NULL,
  updated_at TIMESTAMP NOT NULL
);
CREATE INDEX users_ref ON users (ref, id);
CREATE INDEX users_expires ON users (expires_at);
CREATE INDEX users_name ON users (name);
CREATE INDEX users_subject ON users (subject);
INSERT INTO users (id, ref, version, data, expires_at, created_at, updated_at, name, email, role, subject, disabled)
  SELECT id, ref, version, CAST(data AS TEXT), expires_at, created_at, updated_at,
    COALESCE(substr(json_extract(CAST(data AS TEXT), '$.name'), 1, 255), ''),
    COALESCE(substr(json_extract(CAST(data AS TEXT), '$.email'), 1, 255), ''),
    COALESCE(substr(json_extract(CAST(data AS TEXT), '$.role'), 1, 255), ''),
    COALESCE(substr(json_extract(CAST(data AS TEXT), '$.subject'), 1, 255), ''),
    COALESCE(json_extract(CAST(data AS TEXT), '$.disabled'), FALSE)
  FROM records WHERE kind = 'user';
DELETE FROM records WHERE kind = 'user';

CREATE TABLE tokens (
  id TEXT NOT NULL PRIMARY KEY,
  ref TEXT NOT NULL DEFAULT '',
  version INTEGER NOT NULL,
  name TEXT NOT NULL DEFAULT '',
  user_id TEXT NOT NULL DEFAULT '',
  role TEXT NOT NULL DEFAULT '',
  hash TEXT NOT NULL DEFAULT '',
  used_at TIMESTAMP,
  data TEXT NOT NULL,
  expires_at TIMESTAMP,
  created_at TIMESTAMP NOT NULL,
  updated_at TIMESTAMP NOT NULL
);
CREATE INDEX tokens_ref ON tokens (ref, id);
CREATE INDEX tokens_expires ON tokens (expires_at);
CREATE INDEX tokens_hash ON tokens (hash);
CREATE INDEX tokens_user_id ON tokens (user_id);
INSERT INTO tokens (id, ref, version, data, expires_at, created_at, updated_at, name, user_id, role, hash)
  SELECT id, ref, version, CAST(data AS TEXT), expires_at, created_at, updated_at,
    COALESCE(substr(json_extract(CAST(data AS TEXT), '$.name'), 1, 255), ''),
    COALESCE(substr(json_extract(CAST(data AS TEXT), '$.user'), 1, 255), ''),
    COALESCE(substr(json_extract(CAST(data AS TEXT), '$.role'), 1, 255), ''),
    COALESCE(substr(json_extract(CAST(data AS TEXT), '$.hash'), 1, 255), '')
  FROM records WHERE kind = 'token';
DELETE FROM records WHERE kind = 'token';

CREATE TABLE sessions (
  id TEXT NOT NULL PRIMARY KEY,
  ref TEXT NOT NULL DEFAULT '',
  version INTEGER NOT NULL,
  user_id TEXT NOT NULL DEFAULT '',
  remote TEXT NOT NULL DEFAULT '',
  agent TEXT NOT NULL DEFAULT '',
  used_at TIMESTAMP,
  data TEXT NOT NULL,
  expires_at TIMESTAMP,
  created_at TIMESTAMP NOT NULL,
  updated_at TIMESTAMP NOT NULL
);
CREATE INDEX sessions_ref ON sessions (ref, id);
CREATE INDEX sessions_expires ON sessions (expires_at);
CREATE INDEX sessions_user_id ON sessions (user_id);
INSERT INTO sessions (id, ref, version, data, expires_at, created_at, updated_at, user_id, remote, agent)
  SELECT id, ref, version, CAST(data AS TEXT), expires_at, created_at, updated_at,
    COALESCE(substr(json_extract(CAST(data AS TEXT), '$.user'), 1, 255), ''),
    COALESCE(substr(json_extract(CAST(data AS TEXT), '$.address'), 1, 255), ''),
    COALESCE(substr(json_extract(CAST(data AS TEXT), '$.agent'), 1, 255), '')
  FROM records WHERE kind = 'session';
DELETE FROM records WHERE kind = 'session';

CREATE TABLE targets (
  id TEXT NOT NULL PRIMARY KEY,
  ref TEXT NOT NULL DEFAULT '',
  version INTEGER NOT NULL,
  platform TEXT NOT NULL DEFAULT '',
  healthy BOOLEAN NOT NULL DEFAULT FALSE,
  checked_at TIMESTAMP,
  data TEXT NOT NULL,
  expires_at TIMESTAMP,
  created_at TIMESTAMP NOT NULL,
  updated_at TIMESTAMP NOT NULL
);
CREATE INDEX targets_ref ON targets (ref, id);
CREATE INDEX targets_expires ON targets (expires_at);
INSERT INTO targets (id, ref, version, data, expires_at, created_at, updated_at, platform, healthy)
  SELECT id, ref, version, CAST(data AS TEXT), expires_at, created_at, updated_at,
    COALESCE(substr(json_extract(CAST(data AS TEXT), '$.platform'), 1, 255), ''),
    COALESCE(json_extract(CAST(data AS TEXT), '$.healthy'), FALSE)
  FROM records WHERE kind = 'target';
DELETE FROM records WHERE kind = 'target';

CREATE TABLE mapping_sets (
  id TEXT NOT NULL PRIMARY KEY,
  ref TEXT NOT NULL DEFAULT '',
  version INTEGER NOT NULL,
  note TEXT NOT NULL DEFAULT '',
  data TEXT NOT NULL,
  expires_at TIMESTAMP,
  created_at TIMESTAMP NOT NULL,
  updated_at TIMESTAMP NOT NULL
);
CREATE INDEX mapping_sets_ref ON mapping_sets (ref, id);
CREATE INDEX mapping_sets_expires ON mapping_sets (expires_at);
INSERT INTO mapping_sets (id, ref, version, data, expires_at, created_at, updated_at, note)
  SELECT id, ref, version, CAST(data AS TEXT), expires_at, created_at, updated_at,
    COALESCE(substr(json_extract(CAST(data AS TEXT), '$.note'), 1, 255), '')
  FROM records WHERE kind = 'mapping';
DELETE FROM records WHERE kind = 'mapping';

CREATE TABLE plans (
  id TEXT NOT NULL PRIMARY KEY,
  ref TEXT NOT NULL DEFAULT '',
  version INTEGER NOT NULL,
  backup_id TEXT NOT NULL DEFAULT '',
  target_name TEXT NOT NULL DEFAULT '',
  created_by TEXT NOT NULL DEFAULT '',
  job_id TEXT NOT NULL DEFAULT '',
  data TEXT NOT NULL,
  expires_at TIMESTAMP,
  created_at TIMESTAMP NOT NULL,
  updated_at TIMESTAMP NOT NULL
);
CREATE INDEX plans_ref ON plans (ref, id);
CREATE INDEX plans_expires ON plans (expires_at);
CREATE INDEX plans_job_id ON plans (job_id);
INSERT INTO plans (id, ref, version, data, expires_at, created_at, updated_at, backup_id, target_name, created_by, job_id)
  SELECT id, ref, version, CAST(data AS TEXT), expires_at, created_at, updated_at,
    COALESCE(substr(json_extract(CAST(data AS TEXT), '$.backup'), 1, 255), ''),
    COALESCE(substr(json_extract(CAST(data AS TEXT), '$.target'), 1, 255), ''),
    COALESCE(substr(json_extract(CAST(data AS TEXT), '$.by'), 1, 255), ''),
    COALESCE(substr(json_extract(CAST(data AS TEXT), '$.job'), 1, 255), '')
  FROM records WHERE kind = 'plan';
DELETE FROM records WHERE kind = 'plan';

CREATE TABLE channels (
  id TEXT NOT NULL PRIMARY KEY,
  ref TEXT NOT NULL DEFAULT '',
  version INTEGER NOT NULL,
  kind TEXT NOT NULL DEFAULT '',
  address TEXT NOT NULL DEFAULT '',
  disabled BOOLEAN NOT NULL DEFAULT FALSE,
  data TEXT NOT NULL,
  expires_at TIMESTAMP,
  created_at TIMESTAMP NOT NULL,
  updated_at TIMESTAMP NOT NULL
);
CREATE INDEX channels_ref ON channels (ref, id);
CREATE INDEX channels_expires ON channels (expires_at);
INSERT INTO channels (id, ref, version, data, expires_at, created_at, updated_at, kind, address, disabled)
  SELECT id, ref, version, CAST(data AS TEXT), expires_at, created_at, updated_at,
    COALESCE(substr(json_extract(CAST(data AS TEXT), '$.kind'), 1, 255), ''),
    COALESCE(substr(json_extract(CAST(data AS TEXT), '$.host'), 1, 255), ''),
    COALESCE(json_extract(CAST(data AS TEXT), '$.disabled'), FALSE)
  FROM records WHERE kind = 'channel';
DELETE FROM records WHERE kind = 'channel';

CREATE TABLE deliveries (
  id TEXT NOT NULL PRIMARY KEY,
  ref TEXT NOT NULL DEFAULT '',
  version INTEGER NOT NULL,
  channel TEXT NOT NULL DEFAULT '',
  job_id TEXT NOT NULL DEFAULT '',
  status TEXT NOT NULL DEFAULT '',
  attempts INTEGER NOT NULL DEFAULT 0,
  next_at TIMESTAMP,
  sent_at TIMESTAMP,
  error_message TEXT NOT NULL DEFAULT '',
  data TEXT NOT NULL,
  expires_at TIMESTAMP,
  created_at TIMESTAMP NOT NULL,
  updated_at TIMESTAMP NOT NULL
);
CREATE INDEX deliveries_ref ON deliveries (ref, id);
CREATE INDEX deliveries_expires ON deliveries (expires_at);
CREATE INDEX deliveries_job_id ON deliveries (job_id);
INSERT INTO deliveries (id, ref, version, data, expires_at, created_at, updated_at, channel, job_id, status, attempts, error_message)
  SELECT id, ref, version, CAST(data AS TEXT), expires_at, created_at, updated_at,
    COALESCE(substr(json_extract(CAST(data AS TEXT), '$.channel'), 1, 255), ''),
    COALESCE(substr(json_extract(CAST(data AS TEXT), '$.message.job'), 1, 255), ''),
    COALESCE(substr(json_extract(CAST(data AS TEXT), '$.state'), 1, 255), ''),
    COALESCE(json_extract(CAST(data AS TEXT), '$.attempts'), 0),
    COALESCE(substr(json_extract(CAST(data AS TEXT), '$.error'), 1, 255), '')
  FROM records WHERE kind = 'delivery';
DELETE FROM records WHERE kind = 'delivery';

CREATE TABLE idempotency_keys (
  id TEXT NOT NULL PRIMARY KEY,
  ref TEXT NOT NULL DEFAULT '',
  version INTEGER NOT NULL,
  done BOOLEAN NOT NULL DEFAULT FALSE,
  status INTEGER NOT NULL DEFAULT 0,
  data TEXT NOT NULL,
  expires_at TIMESTAMP,
  created_at TIMESTAMP NOT NULL,
  updated_at TIMESTAMP NOT NULL
);
CREATE INDEX idempotency_keys_ref ON idempotency_keys (ref, id);
CREATE INDEX idempotency_keys_expires ON idempotency_keys (expires_at);
INSERT INTO idempotency_keys (id, ref, version, data, expires_at, created_at, updated_at, done, status)
  SELECT id, ref, version, CAST(data AS TEXT), expires_at, created_at, updated_at,
    COALESCE(json_extract(CAST(data AS TEXT), '$.done'), FALSE),
    COALESCE(json_extract(CAST(data AS TEXT), '$.status'), 0)
  FROM records WHERE kind = 'replay';
DELETE FROM records WHERE kind = 'replay';

CREATE TABLE settings (
  id TEXT NOT NULL PRIMARY KEY,
  ref TEXT NOT NULL DEFAULT '',
  version INTEGER NOT NULL,
  data TEXT NOT NULL,
  expires_at TIMESTAMP,
  created_at TIMESTAMP NOT NULL,
  updated_at TIMESTAMP NOT NULL
);
CREATE INDEX settings_ref ON settings (ref, id);
CREATE INDEX settings_expires ON settings (expires_at);
INSERT INTO settings (id, ref, version, data, expires_at, created_at, updated_at)
  SELECT id, ref, version, CAST(data AS TEXT), expires_at, created_at, updated_at
  FROM records WHERE kind = 'settings';
DELETE FROM records WHERE kind = 'settings';

UPDATE records SET data = CAST(data AS TEXT);

-- +goose Down
UPDATE records SET data = CAST(data AS BLOB);
INSERT INTO records (kind, id, ref, version, data, expires_at, created_at, updated_at) SELECT 'user', id, ref, version, CAST(data AS BLOB), expires_at, created_at, updated_at FROM users;
DROP TABLE users;
INSERT INTO records (kind, id, ref, version, data, expires_at, created_at, updated_at) SELECT 'token', id, ref, version, CAST(data AS BLOB), expires_at, created_at, updated_at FROM tokens;
DROP TABLE tokens;
INSERT INTO records (kind, id, ref, version, data, expires_at, created_at, updated_at) SELECT 'session', id, ref, version, CAST(data AS BLOB), expires_at, created_at, updated_at FROM sessions;
DROP TABLE sessions;
INSERT INTO records (kind, id, ref, version, data, expires_at, created_at, updated_at) SELECT 'target', id, ref, version, CAST(data AS BLOB), expires_at, created_at, updated_at FROM targets;
DROP TABLE targets;
INSERT INTO records (kind, id, ref, version, data, expires_at, created_at, updated_at) SELECT 'mapping', id, ref, version, CAST(data AS BLOB), expires_at, created_at, updated_at FROM mapping_sets;
DROP TABLE mapping_sets;
INSERT INTO records (kind, id, ref, version, data, expires_at, created_at, updated_at) SELECT 'plan', id, ref, version, CAST(data AS BLOB), expires_at, created_at, updated_at FROM plans;
DROP TABLE plans;
INSERT INTO records (kind, id, ref, version, data, expires_at, created_at, updated_at) SELECT 'channel', id, ref, version, CAST(data AS BLOB), expires_at, created_at, updated_at FROM channels;
DROP TABLE channels;
INSERT INTO records (kind, id, ref, version, data, expires_at, created_at, updated_at) SELECT 'delivery', id, ref, version, CAST(data AS BLOB), expires_at, created_at, updated_at FROM deliveries;
DROP TABLE deliveries;
INSERT INTO records (kind, id, ref, version, data, expires_at, created_at, updated_at) SELECT 'replay', id, ref, version, CAST(data AS BLOB), expires_at, created_at, updated_at FROM idempotency_keys;
DROP TABLE idempotency_keys;
INSERT INTO records (kind, id, ref, version, data, expires_at, created_at, updated_at) SELECT 'settings', id, ref, version, CAST(data AS BLOB), expires_at, created_at, updated_at FROM settings;
DROP TABLE settings;

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
