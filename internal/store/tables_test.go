package store

import (
	"strings"
	"testing"
)

// TestTablesOf: a copy knows the tables that migrations leave, in an order in which
// their references hold.
func TestTablesOf(t *testing.T) {
	got := tablesOf(`-- +goose Up
CREATE TABLE a (id INT, b INT, FOREIGN KEY (b) REFERENCES b (id)); -- CREATE TABLE never (x INT);
CREATE TABLE b (id INT, up INT REFERENCES b (id));
CREATE TABLE gone (id INT);
CREATE INDEX x ON b (id);
INSERT INTO b VALUES (1);
DROP TABLE gone;
CREATE TABLE c_new (id INT, d INT REFERENCES d (id));
ALTER TABLE c_new RENAME TO c;
ALTER TABLE b ADD CONSTRAINT f FOREIGN KEY (id) REFERENCES c (id);
CREATE TABLE d (id INT);
CREATE TABLE gone (id INT);
DROP TABLE IF EXISTS gone;`)
	if strings.Join(got, " ") != "d c b a" {
		t.Errorf("%v", got)
	}
}
