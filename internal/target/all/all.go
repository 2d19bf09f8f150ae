// Package all lists the connectors that are built in.
package all

import (
	"ascend/internal/target"
	"ascend/internal/target/aws"
	"ascend/internal/target/azure"
	"ascend/internal/target/cloudstack"
	"ascend/internal/target/hyperv"
	"ascend/internal/target/local"
	"ascend/internal/target/nutanix"
	"ascend/internal/target/vmware"
)

// Registry is all connectors, in alphabetical order.
func Registry() *target.Registry {
	return target.NewRegistry(aws.Kind(), azure.Kind(), cloudstack.Kind(), hyperv.Kind(), local.Kind(), nutanix.Kind(), vmware.Kind())
}
