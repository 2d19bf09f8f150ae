-- +goose Up
-- Versioned documents of the server, by kind: see records.go.

CREATE TABLE records (
  kind VARCHAR(255) COLLATE "C" NOT NULL,
  id VARCHAR(255) COLLATE "C" NOT NULL,
  ref VARCHAR(255) COLLATE "C" NOT NULL DEFAULT '',
  version BIGINT NOT NULL,
  data BYTEA NOT NULL,
  expires_at TIMESTAMPTZ,
  created_at TIMESTAMPTZ NOT NULL,
  updated_at TIMESTAMPTZ NOT NULL,
  PRIMARY KEY (kind, id)
);
CREATE INDEX records_ref ON records (kind, ref, id);
CREATE INDEX records_expires ON records (expires_at);

-- +goose Down
DROP TABLE records;
