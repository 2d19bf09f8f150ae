-- +goose Up
-- Versioned documents of the server, by kind: see records.go.

CREATE TABLE records (
  kind VARCHAR(255) NOT NULL,
  id VARCHAR(255) NOT NULL,
  ref VARCHAR(255) NOT NULL DEFAULT '',
  version BIGINT NOT NULL,
  data LONGBLOB NOT NULL,
  expires_at DATETIME(6),
  created_at DATETIME(6) NOT NULL,
  updated_at DATETIME(6) NOT NULL,
  PRIMARY KEY (kind, id)
) ENGINE=InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
CREATE INDEX records_ref ON records (kind, ref, id);
CREATE INDEX records_expires ON records (expires_at);

-- +goose Down
DROP TABLE records;
