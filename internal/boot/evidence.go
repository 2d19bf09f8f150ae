package boot

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
)

// keep writes the evidence: console.txt, screen.txt, screen.png, net.pcap, and the
// result itself as result.json, last.
func (p *proof) keep(res *Result) error {
	dir := p.q.Evidence
	if dir == "" {
		return nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("cannot keep the proof's evidence: %w", err)
	}
	capture, _ := os.ReadFile(filepath.Join(p.dir, "net.pcap")) // a guest that never sent has none
	for _, f := range []struct {
		name string
		b    []byte
	}{{"console.txt", p.console}, {"screen.txt", []byte(p.vga)}, {"screen.png", p.screen}, {"net.pcap", capture}} {
		if len(f.b) == 0 {
			continue
		}
		if err := os.WriteFile(filepath.Join(dir, f.name), f.b, 0o600); err != nil {
			return fmt.Errorf("cannot keep the proof's evidence: %w", err)
		}
		res.Files = append(res.Files, f.name)
	}
	b, err := json.MarshalIndent(res, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "result.json"), append(b, '\n'), 0o600); err != nil {
		return fmt.Errorf("cannot keep the proof's evidence: %w", err)
	}
	return nil
}
