package fleet

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"

	"ascend/internal/server/records"
	"ascend/internal/vault"
)

// sealedKey is the key of receipts as the store has it.
type sealedKey struct {
	Sealed []byte `json:"sealed"` // the seed
}

const (
	keyID    = "receipts"
	keyPlace = "key receipts"
)

func keys(s records.Store) records.Table[sealedKey] {
	return records.Table[sealedKey]{Store: s, Kind: "key"}
}

// ErrNoKey: the server that workers belong to was never started.
var ErrNoKey = errors.New("there is no key for receipts in the database")

// Key is the key that every worker signs receipts with, so that they are alike
// wherever a job was carried out. own, when not nil, is made the key where there
// is none yet; else the error is ErrNoKey.
func Key(ctx context.Context, s records.Store, v *vault.Vault, own ed25519.PrivateKey) (ed25519.PrivateKey, error) {
	t := keys(s)
	d, err := t.Get(ctx, keyID)
	if errors.Is(err, records.ErrNotFound) && own != nil {
		d = records.Doc[sealedKey]{Record: records.Record{ID: keyID}}
		if d.Value.Sealed, err = v.Seal(keyPlace, own.Seed()); err != nil {
			return nil, err
		}
		if err = t.Put(ctx, &d); errors.Is(err, records.ErrConflict) { // another one was quicker
			d, err = t.Get(ctx, keyID)
		}
	}
	switch {
	case errors.Is(err, records.ErrNotFound):
		return nil, ErrNoKey
	case err != nil:
		return nil, err
	}
	seed, _, err := v.Open(keyPlace, d.Value.Sealed)
	if err != nil {
		return nil, err
	}
	if len(seed) != ed25519.SeedSize {
		return nil, fmt.Errorf("cannot read the key of receipts: %d bytes", len(seed))
	}
	return ed25519.NewKeyFromSeed(seed), nil
}

// RotateKey seals the key of receipts with the vault's first key; the key itself
// stays, so that receipts are still believed.
func RotateKey(ctx context.Context, s records.Store, v *vault.Vault) error {
	t := keys(s)
	d, err := t.Get(ctx, keyID)
	if errors.Is(err, records.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	seed, _, err := v.Open(keyPlace, d.Value.Sealed)
	if err == nil {
		d.Value.Sealed, err = v.Seal(keyPlace, seed)
	}
	if err == nil {
		err = t.Put(ctx, &d)
	}
	return err
}
