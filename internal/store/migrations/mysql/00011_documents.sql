-- +goose Up
-- The documents of the server: a table per kind, whose columns repeat what a
-- document says; see documents.go. In place of tables that nothing wrote to.

SET FOREIGN_KEY_CHECKS = 0;
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
  id VARCHAR(255) NOT NULL PRIMARY KEY,
  ref VARCHAR(255) NOT NULL DEFAULT '',
  version BIGINT NOT NULL,
  name VARCHAR(255) NOT NULL DEFAULT '',
  email VARCHAR(255) NOT NULL DEFAULT '',
  role VARCHAR(255) NOT NULL DEFAULT '',
  subject VARCHAR(255) NOT NULL DEFAULT '',
  disabled BOOLEAN NOT NULL DEFAULT FALSE,
  last_seen_at DATETIME(6),
  data LONGTEXT NOT NULL,
  expires_at DATETIME(6),
  created_at DATETIME(6) NOT NULL,
  updated_at DATETIME(6) NOT NULL
) ENGINE=InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
CREATE INDEX users_ref ON users (ref, id);
CREATE INDEX users_expires ON users (expires_at);
CREATE INDEX users_name ON users (name);
CREATE INDEX users_subject ON users (subject);
INSERT INTO users (id, ref, version, data, expires_at, created_at, updated_at, name, email, role, subject, disabled)
  SELECT id, ref, version, CONVERT(data USING utf8mb4), expires_at, created_at, updated_at,
    COALESCE(LEFT(JSON_VALUE(CONVERT(data USING utf8mb4), '$.name'), 255), ''),
    COALESCE(LEFT(JSON_VALUE(CONVERT(data USING utf8mb4), '$.email'), 255), ''),
    COALESCE(LEFT(JSON_VALUE(CONVERT(data USING utf8mb4), '$.role'), 255), ''),
    COALESCE(LEFT(JSON_VALUE(CONVERT(data USING utf8mb4), '$.subject'), 255), ''),
    COALESCE(JSON_VALUE(CONVERT(data USING utf8mb4), '$.disabled') IN ('1', 'true'), FALSE)
  FROM records WHERE kind = 'user';
DELETE FROM records WHERE kind = 'user';

CREATE TABLE tokens (
  id VARCHAR(255) NOT NULL PRIMARY KEY,
  ref VARCHAR(255) NOT NULL DEFAULT '',
  version BIGINT NOT NULL,
  name VARCHAR(255) NOT NULL DEFAULT '',
  user_id VARCHAR(255) NOT NULL DEFAULT '',
  role VARCHAR(255) NOT NULL DEFAULT '',
  hash VARCHAR(255) NOT NULL DEFAULT '',
  used_at DATETIME(6),
  data LONGTEXT NOT NULL,
  expires_at DATETIME(6),
  created_at DATETIME(6) NOT NULL,
  updated_at DATETIME(6) NOT NULL
) ENGINE=InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
CREATE INDEX tokens_ref ON tokens (ref, id);
CREATE INDEX tokens_expires ON tokens (expires_at);
CREATE INDEX tokens_hash ON tokens (hash);
CREATE INDEX tokens_user_id ON tokens (user_id);
INSERT INTO tokens (id, ref, version, data, expires_at, created_at, updated_at, name, user_id, role, hash)
  SELECT id, ref, version, CONVERT(data USING utf8mb4), expires_at, created_at, updated_at,
    COALESCE(LEFT(JSON_VALUE(CONVERT(data USING utf8mb4), '$.name'), 255), ''),
    COALESCE(LEFT(JSON_VALUE(CONVERT(data USING utf8mb4), '$.user'), 255), ''),
    COALESCE(LEFT(JSON_VALUE(CONVERT(data USING utf8mb4), '$.role'), 255), ''),
    COALESCE(LEFT(JSON_VALUE(CONVERT(data USING utf8mb4), '$.hash'), 255), '')
  FROM records WHERE kind = 'token';
DELETE FROM records WHERE kind = 'token';

CREATE TABLE sessions (
  id VARCHAR(255) NOT NULL PRIMARY KEY,
  ref VARCHAR(255) NOT NULL DEFAULT '',
  version BIGINT NOT NULL,
  user_id VARCHAR(255) NOT NULL DEFAULT '',
  remote VARCHAR(255) NOT NULL DEFAULT '',
  agent VARCHAR(255) NOT NULL DEFAULT '',
  used_at DATETIME(6),
  data LONGTEXT NOT NULL,
  expires_at DATETIME(6),
  created_at DATETIME(6) NOT NULL,
  updated_at DATETIME(6) NOT NULL
) ENGINE=InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
CREATE INDEX sessions_ref ON sessions (ref, id);
CREATE INDEX sessions_expires ON sessions (expires_at);
CREATE INDEX sessions_user_id ON sessions (user_id);
INSERT INTO sessions (id, ref, version, data, expires_at, created_at, updated_at, user_id, remote, agent)
  SELECT id, ref, version, CONVERT(data USING utf8mb4), expires_at, created_at, updated_at,
    COALESCE(LEFT(JSON_VALUE(CONVERT(data USING utf8mb4), '$.user'), 255), ''),
    COALESCE(LEFT(JSON_VALUE(CONVERT(data USING utf8mb4), '$.address'), 255), ''),
    COALESCE(LEFT(JSON_VALUE(CONVERT(data USING utf8mb4), '$.agent'), 255), '')
  FROM records WHERE kind = 'session';
DELETE FROM records WHERE kind = 'session';

CREATE TABLE targets (
  id VARCHAR(255) NOT NULL PRIMARY KEY,
  ref VARCHAR(255) NOT NULL DEFAULT '',
  version BIGINT NOT NULL,
  platform VARCHAR(255) NOT NULL DEFAULT '',
  healthy BOOLEAN NOT NULL DEFAULT FALSE,
  checked_at DATETIME(6),
  data LONGTEXT NOT NULL,
  expires_at DATETIME(6),
  created_at DATETIME(6) NOT NULL,
  updated_at DATETIME(6) NOT NULL
) ENGINE=InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
CREATE INDEX targets_ref ON targets (ref, id);
CREATE INDEX targets_expires ON targets (expires_at);
INSERT INTO targets (id, ref, version, data, expires_at, created_at, updated_at, platform, healthy)
  SELECT id, ref, version, CONVERT(data USING utf8mb4), expires_at, created_at, updated_at,
    COALESCE(LEFT(JSON_VALUE(CONVERT(data USING utf8mb4), '$.platform'), 255), ''),
    COALESCE(JSON_VALUE(CONVERT(data USING utf8mb4), '$.healthy') IN ('1', 'true'), FALSE)
  FROM records WHERE kind = 'target';
DELETE FROM records WHERE kind = 'target';

CREATE TABLE mapping_sets (
  id VARCHAR(255) NOT NULL PRIMARY KEY,
  ref VARCHAR(255) NOT NULL DEFAULT '',
  version BIGINT NOT NULL,
  note VARCHAR(255) NOT NULL DEFAULT '',
  data LONGTEXT NOT NULL,
  expires_at DATETIME(6),
  created_at DATETIME(6) NOT NULL,
  updated_at DATETIME(6) NOT NULL
) ENGINE=InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
CREATE INDEX mapping_sets_ref ON mapping_sets (ref, id);
CREATE INDEX mapping_sets_expires ON mapping_sets (expires_at);
INSERT INTO mapping_sets (id, ref, version, data, expires_at, created_at, updated_at, note)
  SELECT id, ref, version, CONVERT(data USING utf8mb4), expires_at, created_at, updated_at,
    COALESCE(LEFT(JSON_VALUE(CONVERT(data USING utf8mb4), '$.note'), 255), '')
  FROM records WHERE kind = 'mapping';
DELETE FROM records WHERE kind = 'mapping';

CREATE TABLE plans (
  id VARCHAR(255) NOT NULL PRIMARY KEY,
  ref VARCHAR(255) NOT NULL DEFAULT '',
  version BIGINT NOT NULL,
  backup_id VARCHAR(255) NOT NULL DEFAULT '',
  target_name VARCHAR(255) NOT NULL DEFAULT '',
  created_by VARCHAR(255) NOT NULL DEFAULT '',
  job_id VARCHAR(255) NOT NULL DEFAULT '',
  data LONGTEXT NOT NULL,
  expires_at DATETIME(6),
  created_at DATETIME(6) NOT NULL,
  updated_at DATETIME(6) NOT NULL
) ENGINE=InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
CREATE INDEX plans_ref ON plans (ref, id);
CREATE INDEX plans_expires ON plans (expires_at);
CREATE INDEX plans_job_id ON plans (job_id);
INSERT INTO plans (id, ref, version, data, expires_at, created_at, updated_at, backup_id, target_name, created_by, job_id)
  SELECT id, ref, version, CONVERT(data USING utf8mb4), expires_at, created_at, updated_at,
    COALESCE(LEFT(JSON_VALUE(CONVERT(data USING utf8mb4), '$.backup'), 255), ''),
    COALESCE(LEFT(JSON_VALUE(CONVERT(data USING utf8mb4), '$.target'), 255), ''),
    COALESCE(LEFT(JSON_VALUE(CONVERT(data USING utf8mb4), '$.by'), 255), ''),
    COALESCE(LEFT(JSON_VALUE(CONVERT(data USING utf8mb4), '$.job'), 255), '')
  FROM records WHERE kind = 'plan';
DELETE FROM records WHERE kind = 'plan';

CREATE TABLE channels (
  id VARCHAR(255) NOT NULL PRIMARY KEY,
  ref VARCHAR(255) NOT NULL DEFAULT '',
  version BIGINT NOT NULL,
  kind VARCHAR(255) NOT NULL DEFAULT '',
  address VARCHAR(255) NOT NULL DEFAULT '',
  disabled BOOLEAN NOT NULL DEFAULT FALSE,
  data LONGTEXT NOT NULL,
  expires_at DATETIME(6),
  created_at DATETIME(6) NOT NULL,
  updated_at DATETIME(6) NOT NULL
) ENGINE=InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
CREATE INDEX channels_ref ON channels (ref, id);
CREATE INDEX channels_expires ON channels (expires_at);
INSERT INTO channels (id, ref, version, data, expires_at, created_at, updated_at, kind, address, disabled)
  SELECT id, ref, version, CONVERT(data USING utf8mb4), expires_at, created_at, updated_at,
    COALESCE(LEFT(JSON_VALUE(CONVERT(data USING utf8mb4), '$.kind'), 255), ''),
    COALESCE(LEFT(JSON_VALUE(CONVERT(data USING utf8mb4), '$.host'), 255), ''),
    COALESCE(JSON_VALUE(CONVERT(data USING utf8mb4), '$.disabled') IN ('1', 'true'), FALSE)
  FROM records WHERE kind = 'channel';
DELETE FROM records WHERE kind = 'channel';

CREATE TABLE deliveries (
  id VARCHAR(255) NOT NULL PRIMARY KEY,
  ref VARCHAR(255) NOT NULL DEFAULT '',
  version BIGINT NOT NULL,
  channel VARCHAR(255) NOT NULL DEFAULT '',
  job_id VARCHAR(255) NOT NULL DEFAULT '',
  status VARCHAR(255) NOT NULL DEFAULT '',
  attempts BIGINT NOT NULL DEFAULT 0,
  next_at DATETIME(6),
  sent_at DATETIME(6),
  error_message VARCHAR(255) NOT NULL DEFAULT '',
  data LONGTEXT NOT NULL,
  expires_at DATETIME(6),
  created_at DATETIME(6) NOT NULL,
  updated_at DATETIME(6) NOT NULL
) ENGINE=InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
CREATE INDEX deliveries_ref ON deliveries (ref, id);
CREATE INDEX deliveries_expires ON deliveries (expires_at);
CREATE INDEX deliveries_job_id ON deliveries (job_id);
INSERT INTO deliveries (id, ref, version, data, expires_at, created_at, updated_at, channel, job_id, status, attempts, error_message)
  SELECT id, ref, version, CONVERT(data USING utf8mb4), expires_at, created_at, updated_at,
    COALESCE(LEFT(JSON_VALUE(CONVERT(data USING utf8mb4), '$.channel'), 255), ''),
    COALESCE(LEFT(JSON_VALUE(CONVERT(data USING utf8mb4), '$.message.job'), 255), ''),
    COALESCE(LEFT(JSON_VALUE(CONVERT(data USING utf8mb4), '$.state'), 255), ''),
    COALESCE(CAST(JSON_VALUE(CONVERT(data USING utf8mb4), '$.attempts') AS SIGNED), 0),
    COALESCE(LEFT(JSON_VALUE(CONVERT(data USING utf8mb4), '$.error'), 255), '')
  FROM records WHERE kind = 'delivery';
DELETE FROM records WHERE kind = 'delivery';

CREATE TABLE idempotency_keys (
  id VARCHAR(255) NOT NULL PRIMARY KEY,
  ref VARCHAR(255) NOT NULL DEFAULT '',
  version BIGINT NOT NULL,
  done BOOLEAN NOT NULL DEFAULT FALSE,
  status BIGINT NOT NULL DEFAULT 0,
  data LONGTEXT NOT NULL,
  expires_at DATETIME(6),
  created_at DATETIME(6) NOT NULL,
  updated_at DATETIME(6) NOT NULL
) ENGINE=InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
CREATE INDEX idempotency_keys_ref ON idempotency_keys (ref, id);
CREATE INDEX idempotency_keys_expires ON idempotency_keys (expires_at);
INSERT INTO idempotency_keys (id, ref, version, data, expires_at, created_at, updated_at, done, status)
  SELECT id, ref, version, CONVERT(data USING utf8mb4), expires_at, created_at, updated_at,
    COALESCE(JSON_VALUE(CONVERT(data USING utf8mb4), '$.done') IN ('1', 'true'), FALSE),
    COALESCE(CAST(JSON_VALUE(CONVERT(data USING utf8mb4), '$.status') AS SIGNED), 0)
  FROM records WHERE kind = 'replay';
DELETE FROM records WHERE kind = 'replay';

CREATE TABLE settings (
  id VARCHAR(255) NOT NULL PRIMARY KEY,
  ref VARCHAR(255) NOT NULL DEFAULT '',
  version BIGINT NOT NULL,
  data LONGTEXT NOT NULL,
  expires_at DATETIME(6),
  created_at DATETIME(6) NOT NULL,
  updated_at DATETIME(6) NOT NULL
) ENGINE=InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
CREATE INDEX settings_ref ON settings (ref, id);
CREATE INDEX settings_expires ON settings (expires_at);
INSERT INTO settings (id, ref, version, data, expires_at, created_at, updated_at)
  SELECT id, ref, version, CONVERT(data USING utf8mb4), expires_at, created_at, updated_at
  FROM records WHERE kind = 'settings';
DELETE FROM records WHERE kind = 'settings';

ALTER TABLE records MODIFY data LONGTEXT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL;
SET FOREIGN_KEY_CHECKS = 1;

-- +goose Down
SET FOREIGN_KEY_CHECKS = 0;
ALTER TABLE records MODIFY data LONGBLOB NOT NULL;
INSERT INTO records (kind, id, ref, version, data, expires_at, created_at, updated_at) SELECT 'user', id, ref, version, CAST(data AS BINARY), expires_at, created_at, updated_at FROM users;
DROP TABLE users;
INSERT INTO records (kind, id, ref, version, data, expires_at, created_at, updated_at) SELECT 'token', id, ref, version, CAST(data AS BINARY), expires_at, created_at, updated_at FROM tokens;
DROP TABLE tokens;
INSERT INTO records (kind, id, ref, version, data, expires_at, created_at, updated_at) SELECT 'session', id, ref, version, CAST(data AS BINARY), expires_at, created_at, updated_at FROM sessions;
DROP TABLE sessions;
INSERT INTO records (kind, id, ref, version, data, expires_at, created_at, updated_at) SELECT 'target', id, ref, version, CAST(data AS BINARY), expires_at, created_at, updated_at FROM targets;
DROP TABLE targets;
INSERT INTO records (kind, id, ref, version, data, expires_at, created_at, updated_at) SELECT 'mapping', id, ref, version, CAST(data AS BINARY), expires_at, created_at, updated_at FROM mapping_sets;
DROP TABLE mapping_sets;
INSERT INTO records (kind, id, ref, version, data, expires_at, created_at, updated_at) SELECT 'plan', id, ref, version, CAST(data AS BINARY), expires_at, created_at, updated_at FROM plans;
DROP TABLE plans;
INSERT INTO records (kind, id, ref, version, data, expires_at, created_at, updated_at) SELECT 'channel', id, ref, version, CAST(data AS BINARY), expires_at, created_at, updated_at FROM channels;
DROP TABLE channels;
INSERT INTO records (kind, id, ref, version, data, expires_at, created_at, updated_at) SELECT 'delivery', id, ref, version, CAST(data AS BINARY), expires_at, created_at, updated_at FROM deliveries;
DROP TABLE deliveries;
INSERT INTO records (kind, id, ref, version, data, expires_at, created_at, updated_at) SELECT 'replay', id, ref, version, CAST(data AS BINARY), expires_at, created_at, updated_at FROM idempotency_keys;
DROP TABLE idempotency_keys;
INSERT INTO records (kind, id, ref, version, data, expires_at, created_at, updated_at) SELECT 'settings', id, ref, version, CAST(data AS BINARY), expires_at, created_at, updated_at FROM settings;
DROP TABLE settings;

CREATE TABLE targets (
  id VARCHAR(64) NOT NULL PRIMARY KEY,
  name VARCHAR(255) NOT NULL UNIQUE,
  platform VARCHAR(64) NOT NULL,
  settings JSON,
  secrets LONGBLOB,
  capabilities LONGTEXT,
  inventory LONGTEXT,
  checked_at DATETIME(6),
  error_message MEDIUMTEXT,
  version BIGINT NOT NULL DEFAULT 1,
  created_at DATETIME(6) NOT NULL,
  updated_at DATETIME(6) NOT NULL
) ENGINE=InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

CREATE TABLE plans (
  id VARCHAR(64) NOT NULL PRIMARY KEY,
  name VARCHAR(255) NOT NULL DEFAULT '',
  vm_name VARCHAR(255) NOT NULL DEFAULT '',
  target_name VARCHAR(255) NOT NULL DEFAULT '',
  created_by VARCHAR(255) NOT NULL DEFAULT '',
  body LONGTEXT NOT NULL,
  created_at DATETIME(6) NOT NULL
) ENGINE=InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
CREATE INDEX plans_created ON plans (created_at);

CREATE TABLE users (
  id VARCHAR(64) NOT NULL PRIMARY KEY,
  name VARCHAR(255) NOT NULL UNIQUE,
  email VARCHAR(255) NOT NULL DEFAULT '',
  role VARCHAR(64) NOT NULL,
  password_hash MEDIUMTEXT,
  disabled BOOLEAN NOT NULL DEFAULT FALSE,
  last_seen_at DATETIME(6),
  version BIGINT NOT NULL DEFAULT 1,
  created_at DATETIME(6) NOT NULL,
  updated_at DATETIME(6) NOT NULL
) ENGINE=InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

CREATE TABLE identities (
  issuer VARCHAR(255) NOT NULL,
  subject VARCHAR(255) NOT NULL,
  user_id VARCHAR(64) NOT NULL,
  created_at DATETIME(6) NOT NULL,
  PRIMARY KEY (issuer, subject),
  FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE
) ENGINE=InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

CREATE TABLE tokens (
  id VARCHAR(64) NOT NULL PRIMARY KEY,
  hash VARCHAR(64) NOT NULL UNIQUE,
  user_id VARCHAR(64),
  name VARCHAR(255) NOT NULL DEFAULT '',
  role VARCHAR(64) NOT NULL DEFAULT '',
  once BOOLEAN NOT NULL DEFAULT FALSE,
  revoked BOOLEAN NOT NULL DEFAULT FALSE,
  expires_at DATETIME(6),
  used_at DATETIME(6),
  created_at DATETIME(6) NOT NULL,
  FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE
) ENGINE=InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

CREATE TABLE sessions (
  hash VARCHAR(64) NOT NULL PRIMARY KEY,
  user_id VARCHAR(64) NOT NULL,
  csrf VARCHAR(255) NOT NULL,
  remote VARCHAR(255) NOT NULL DEFAULT '',
  agent VARCHAR(255) NOT NULL DEFAULT '',
  expires_at DATETIME(6) NOT NULL,
  seen_at DATETIME(6) NOT NULL,
  created_at DATETIME(6) NOT NULL,
  FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE
) ENGINE=InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
CREATE INDEX sessions_user ON sessions (user_id);
CREATE INDEX sessions_expires ON sessions (expires_at);

CREATE TABLE grants (
  user_id VARCHAR(64) NOT NULL,
  target_id VARCHAR(64) NOT NULL,
  role VARCHAR(64) NOT NULL,
  created_at DATETIME(6) NOT NULL,
  PRIMARY KEY (user_id, target_id),
  FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE,
  FOREIGN KEY (target_id) REFERENCES targets (id) ON DELETE CASCADE
) ENGINE=InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

CREATE TABLE settings (
  name VARCHAR(255) NOT NULL PRIMARY KEY,
  body LONGTEXT NOT NULL,
  version BIGINT NOT NULL DEFAULT 1,
  updated_at DATETIME(6) NOT NULL
) ENGINE=InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

CREATE TABLE idempotency_keys (
  actor VARCHAR(64) NOT NULL,
  idem_key VARCHAR(64) NOT NULL,
  fingerprint VARCHAR(64) NOT NULL,
  status BIGINT NOT NULL DEFAULT 0,
  answer LONGBLOB,
  created_at DATETIME(6) NOT NULL,
  expires_at DATETIME(6) NOT NULL,
  PRIMARY KEY (actor, idem_key)
) ENGINE=InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
CREATE INDEX idempotency_expires ON idempotency_keys (expires_at);

CREATE TABLE deliveries (
  id VARCHAR(64) NOT NULL PRIMARY KEY,
  seq BIGINT NOT NULL UNIQUE,
  channel VARCHAR(255) NOT NULL,
  job_id VARCHAR(64) NOT NULL DEFAULT '',
  kind VARCHAR(64) NOT NULL,
  body LONGTEXT NOT NULL,
  status VARCHAR(64) NOT NULL,
  attempt BIGINT NOT NULL DEFAULT 0,
  next_at DATETIME(6) NOT NULL,
  error_message MEDIUMTEXT,
  created_at DATETIME(6) NOT NULL,
  completed_at DATETIME(6)
) ENGINE=InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
CREATE INDEX deliveries_due ON deliveries (status, next_at);
CREATE INDEX deliveries_job ON deliveries (job_id);

CREATE TABLE mapping_sets (
  id VARCHAR(64) NOT NULL PRIMARY KEY,
  name VARCHAR(255) NOT NULL UNIQUE,
  target_id VARCHAR(64),
  body LONGTEXT NOT NULL,
  version BIGINT NOT NULL DEFAULT 1,
  created_at DATETIME(6) NOT NULL,
  updated_at DATETIME(6) NOT NULL,
  FOREIGN KEY (target_id) REFERENCES targets (id) ON DELETE CASCADE
) ENGINE=InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

SET FOREIGN_KEY_CHECKS = 1;
