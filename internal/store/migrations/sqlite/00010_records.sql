-- +goose Up
-- Versioned documents of the server, by kind: see records.go.

CREATE TABLE records (
  kind TEXT NOT NULL,
  id TEXT NOT NULL,
  ref TEXT NOT NULL DEFAULT '',
  version INTEGER NOT NULL,
  data BLOB NOT NULL,
  expires_at TIMESTAMP,
  created_at TIMESTAMP NOT NULL,
  updated_at TIMESTAMP NOT NULL,
  PRIMARY KEY (kind, id)
);
CREATE INDEX records_ref ON records (kind, ref, id);
CREATE INDEX records_expires ON records (expires_at);

-- +goose Down
DROP TABLE records;
