package plan

import (
	"encoding/json"
	"reflect"
	"slices"
	"strings"
	"time"

	"ascend/internal/target"
	"ascend/internal/vm"
)

// enums are the values of types that have few.
var enums = map[reflect.Type][]string{
	reflect.TypeFor[vm.Platform]():          texts(vm.Platforms()),
	reflect.TypeFor[vm.Firmware]():          {string(vm.BIOS), string(vm.UEFI)},
	reflect.TypeFor[vm.Arch]():              {string(vm.AMD64), string(vm.I386), string(vm.ARM64)},
	reflect.TypeFor[vm.OSFamily]():          {string(vm.Linux), string(vm.Windows), string(vm.BSD), string(vm.OtherOS)},
	reflect.TypeFor[vm.Clock]():             {string(vm.ClockUTC), string(vm.ClockLocal)},
	reflect.TypeFor[Severity]():             {string(Critical), string(Warning), string(Information)},
	reflect.TypeFor[target.Mode]():          {string(target.Ranges), string(target.Ordered)},
	reflect.TypeFor[target.AddressPolicy](): {string(target.AddressKeep), string(target.AddressDHCP), string(target.AddressNew)},
	reflect.TypeFor[vm.Bus](): texts([]vm.Bus{vm.BusIDE, vm.BusSATA, vm.BusNVMe, vm.BusLSILogic, vm.BusLSISAS, vm.BusLSIBus, vm.BusPVSCSI, vm.BusSCSI, vm.BusVirtioBlk,
		vm.BusVirtioSCSI, vm.BusXenBlk, vm.BusVMBusSCSI}),
	reflect.TypeFor[vm.NICModel]():   texts([]vm.NICModel{vm.VMXNET3, vm.E1000, vm.E1000E, vm.VirtioNet, vm.NetVSC, vm.ENA, vm.RTL8139, vm.PCNet32}),
	reflect.TypeFor[vm.DeviceKind](): texts([]vm.DeviceKind{vm.PCIPassthrough, vm.SRIOV, vm.GPU, vm.USB, vm.SerialPort, vm.ParallelPort, vm.Floppy}),
}

// Schema is the JSON Schema (2020-12) of a plan's document.
func Schema() []byte {
	s := schemaOf(reflect.TypeFor[Plan]())
	s["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	s["$id"] = "urn:ascend:plan:1"
	s["title"] = "A plan of ascend"
	if v, ok := s["properties"].(map[string]any); ok {
		v["version"] = map[string]any{"const": 1}
	}
	b, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		panic(err) // made of maps and strings
	}
	return append(b, '\n')
}

// SchemaOf is the JSON Schema of a type of a document that holds parts of plans.
func SchemaOf(t reflect.Type) map[string]any { return schemaOf(t) }

func schemaOf(t reflect.Type) map[string]any {
	if e, ok := enums[t]; ok {
		return map[string]any{"enum": append([]string{""}, e...)}
	}
	if t == reflect.TypeFor[time.Time]() {
		return map[string]any{"type": "string", "format": "date-time"}
	}
	switch t.Kind() {
	case reflect.Pointer:
		return schemaOf(t.Elem())
	case reflect.Struct:
		props, required := map[string]any{}, []string{}
		for _, f := range fields(t) {
			props[f.name] = schemaOf(f.t)
			if !f.optional {
				required = append(required, f.name)
			}
		}
		s := map[string]any{"type": "object", "properties": props, "additionalProperties": false}
		if len(required) > 0 {
			slices.Sort(required)
			s["required"] = required
		}
		return s
	case reflect.Slice:
		if t.Elem().Kind() == reflect.Uint8 {
			return map[string]any{"type": "string"}
		}
		return map[string]any{"type": []string{"array", "null"}, "items": schemaOf(t.Elem())}
	case reflect.Map:
		return map[string]any{"type": []string{"object", "null"}, "additionalProperties": schemaOf(t.Elem())}
	case reflect.Bool:
		return map[string]any{"type": "boolean"}
	case reflect.String:
		return map[string]any{"type": "string"}
	case reflect.Float32, reflect.Float64:
		return map[string]any{"type": "number"}
	}
	return map[string]any{"type": "integer"}
}

type schemaField struct {
	name     string
	t        reflect.Type
	optional bool
}

// fields lists a type's fields as its JSON has them.
func fields(t reflect.Type) []schemaField {
	var out []schemaField
	for i := range t.NumField() {
		f := t.Field(i)
		tag, opts, _ := strings.Cut(f.Tag.Get("json"), ",")
		if !f.IsExported() || tag == "-" {
			continue
		}
		if f.Anonymous && tag == "" {
			out = append(out, fields(f.Type)...)
			continue
		}
		if tag == "" {
			tag = f.Name
		}
		out = append(out, schemaField{tag, f.Type, strings.Contains(opts, "omit")})
	}
	return out
}

// schemaFields are the names of the fields of the object at a path.
func schemaFields(path string) []string {
	t := reflect.TypeFor[Plan]()
	for _, part := range strings.FieldsFunc(path, func(r rune) bool { return r == '.' || r == '[' }) {
		for t.Kind() == reflect.Pointer {
			t = t.Elem()
		}
		switch {
		case t.Kind() == reflect.Slice && strings.HasSuffix(part, "]"):
			t = t.Elem()
		case t.Kind() == reflect.Struct:
			i := slices.IndexFunc(fields(t), func(f schemaField) bool { return f.name == part })
			if i < 0 {
				return nil
			}
			t = fields(t)[i].t
		default:
			return nil
		}
	}
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct {
		return nil
	}
	var names []string
	for _, f := range fields(t) {
		names = append(names, f.name)
	}
	return names
}
