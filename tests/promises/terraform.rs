//! Terraform: what is constant is read, what is not is unknown, and the sidecar goes where the
//! containers are.

use std::fs;
use std::path::PathBuf;

use ecs_prestop::tools::add::{AddOptions, Added, NotAdded, add};
use ecs_prestop::tools::check::{Selection, check};
use ecs_prestop::tools::document::{self, Node};
use ecs_prestop::tools::model::{self, TaskDefinition};
use ecs_prestop::tools::source::Source;
use proptest::prelude::*;
use serde_json::json;

use crate::process::run;

/// A module of Terraform in a directory of its own.
struct Module(PathBuf);

impl Module {
    fn of(files: &[(&str, &str)]) -> Module {
        static NEXT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
        let next = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let directory = std::env::temp_dir().join(format!("ecs-prestop-tf-{}-{next}", std::process::id()));
        for (name, text) in files {
            let path = directory.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        Module(directory)
    }

    fn source(&self, name: &str) -> Source {
        Source::read(self.0.join(name).to_str().unwrap()).unwrap()
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn alone(name: &str, text: &str) -> Source {
    Source::new(name, text.to_owned())
}

/// One line a task and one a container, with where each stands.
fn read(source: &Source) -> String {
    let (root, _) = document::parse_among(&source.name, &source.text, source).unwrap();
    let mut lines = Vec::new();
    for task in model::tasks(&root).unwrap() {
        lines.push(task_line(&task));
        for container in &task.containers {
            let line = source.position(container.node.span.start).line;
            let stop = container.stop_timeout_s.known();
            let ports = container.ports.known().cloned().unwrap_or_default();
            let image = container.image.known().map_or("?", AsRef::as_ref);
            let name = &container.name.text;
            lines.push(format!("  {line}: {name} {image} stop {stop:?} ports {ports:?}"));
        }
    }
    lines.join("\n")
}

fn task_line(task: &TaskDefinition<'_>) -> String {
    let groups: usize = task
        .services
        .iter()
        .map(|service| service.target_groups.len())
        .sum();
    format!(
        "{} fargate {:?} {:?} services {} groups {groups}{}",
        task.name,
        task.on_fargate(),
        task.network(),
        task.services.len(),
        if task.more_containers { " and more" } else { "" }
    )
}

fn options(to: &str) -> AddOptions {
    AddOptions {
        to: to.to_owned(),
        drain: Some("POST http://127.0.0.1:8080/drain".to_owned()),
        capacity: Some("on-demand".to_owned()),
        image: Some("registry.example/ecs-prestop:1".to_owned()),
        ..AddOptions::default()
    }
}

fn added(source: &Source, to: &str) -> Result<Added, NotAdded> {
    add(source, &options(to))
}

/// What was put in, given that every other byte is as it was.
fn inserted(source: &Source, to: &str) -> String {
    let after = added(source, to).unwrap().text;
    let before = &source.text;
    let common = before
        .bytes()
        .zip(after.bytes())
        .take_while(|(a, b)| a == b)
        .count();
    assert!(
        after.ends_with(&before[common..]),
        "more than one place changed:\n{after}"
    );
    after[common..after.len() - (before.len() - common)].to_owned()
}

const MAIN: &str = r#"# Comments stay.
resource "aws_ecs_task_definition" "app" {
  family                   = "web-${var.stage}"
  requires_compatibilities = ["FARGATE"]
  network_mode             = "awsvpc"
  cpu                      = 256
  memory                   = 512

  container_definitions = jsonencode([
    {
      name         = local.name
      image        = "${aws_ecr_repository.app.repository_url}:${var.tag}"
      essential    = true
      stopTimeout  = var.stop
      portMappings = [{ containerPort = var.port, hostPort = var.port }]
      environment  = [for key, value in local.environment : { name = key, value = value }]
      logConfiguration = {
        logDriver = "awslogs"
        options = {
          awslogs-group         = aws_cloudwatch_log_group.app.name
          awslogs-region        = var.region
          awslogs-stream-prefix = "app"
          mode                  = "blocking"
        }
      }
    }
  ])
}

resource "aws_ecs_service" "app" {
  task_definition = aws_ecs_task_definition.app.arn
  capacity_provider_strategy {
    capacity_provider = "FARGATE"
    weight            = 1
  }
  load_balancer {
    target_group_arn = aws_lb_target_group.app.arn
    container_name   = local.name
    container_port   = var.port
  }
}

resource "aws_lb_target_group" "app" {
  deregistration_delay = 30
  health_check {
    path = "/healthz"
  }
}

locals {
  name        = "app"
  environment = { A = "1", STAGE = var.stage }
}

variable "region" {
  default = "eu-central-1"
}
variable "port" {
  type    = number
  default = 8080
}
variable "stop" {
  default = 60
}
variable "stage" {}
variable "tag" {
  default = ""
}
"#;

#[test]
fn locals_and_defaults_are_read_and_what_terraform_alone_knows_is_unknown() {
    let source = alone("main.tf", MAIN);
    insta::assert_snapshot!(read(&source), @r"
    app fargate Some(true) Shared services 1 groups 1
      10: app ? stop Some(60.0) ports [8080]
    ");
    let (root, _) = document::parse("main.tf", MAIN).unwrap();
    let tasks = model::tasks(&root).unwrap();
    let app = &tasks[0].containers[0];
    let variables: Vec<_> = app
        .environment
        .iter()
        .map(|variable| (variable.name.as_ref(), variable.value.known().map(AsRef::as_ref)))
        .collect();
    assert_eq!(variables, [("A", Some("1")), ("STAGE", None)]);
    let group = &tasks[0].services[0].target_groups[0];
    assert_eq!(group.deregistration_delay_s.known(), Some(&30));
    assert_eq!(group.health_path.known().map(AsRef::as_ref), Some("/healthz"));
    // A word stands where it is used.
    let place = source.position(app.name.node.span.start);
    assert_eq!((place.line, place.column), (11, 22));
}

#[test]
fn a_finding_points_into_the_file() {
    let text = MAIN.replace("stopTimeout  = var.stop", "stopTimeout  = 300");
    let checked = check(alone("main.tf", &text), &Selection::default())
        .unwrap()
        .unwrap();
    let found: Vec<_> = checked
        .findings
        .iter()
        .filter(|finding| finding.rule.id == "PS011")
        .map(|finding| (finding.start.line, finding.start.column, finding.path.as_str()))
        .collect();
    assert_eq!(
        found,
        [(
            14,
            22,
            "$.resource.aws_ecs_task_definition.app.container_definitions[0].stopTimeout"
        )]
    );
}

const HEREDOC: &str = r#"resource "aws_ecs_task_definition" "app" {
  family                = "web"
  network_mode          = "awsvpc"
  container_definitions = <<-EOT
    [
      {
        "name": "${var.name}-app",
        "image": "${var.image}",
        "cpu": ${var.cpu},
        "stopTimeout": 25,
        "portMappings": [{"containerPort": ${local.port}}],
        "environment": ${jsonencode(local.environment)},
        "logConfiguration": {
          "logDriver": "awslogs",
          "options": {"awslogs-group": "${aws_cloudwatch_log_group.app.name}", "price": "$${not}"}
        }
      }
    ]
  EOT
}

locals {
  port        = 8080
  environment = [{ name = "A", value = "1" }]
}
"#;

#[test]
fn a_heredoc_is_read_with_its_expressions_and_the_sidecar_goes_into_it() {
    let source = alone("main.tf", HEREDOC);
    insta::assert_snapshot!(read(&source), @r"
    app fargate None Shared services 0 groups 0
      6: ${var.name}-app ? stop Some(25.0) ports [8080]
    ");
    let part = inserted(&source, "${var.name}-app");
    insta::assert_snapshot!(part, @r#"
    ,
          {
            "name": "prestop",
            "image": "registry.example/ecs-prestop:1",
            "essential": false,
            "dependsOn": [{"containerName": "${var.name}-app", "condition": "START"}],
            "stopTimeout": 90,
            "environment": [
              {"name": "PRESTOP_DRAIN", "value": "POST http://127.0.0.1:8080/drain"},
              {"name": "PRESTOP_STOP_TIMEOUT", "value": "90s"},
              {"name": "PRESTOP_CAPACITY", "value": "on-demand"}
            ],
            "healthCheck": {"command": ["CMD", "/ecs-prestop", "health"]},
            "memoryReservation": 16,
            "memory": 32,
            "user": "65532",
            "readonlyRootFilesystem": true,
            "linuxParameters": {"capabilities": {"drop": ["ALL"]}},
            "logConfiguration": {
              "logDriver": "awslogs",
              "options": {"awslogs-group": "${aws_cloudwatch_log_group.app.name}", "price": "$${not}"}
            }
          }
    "#);
}

#[test]
fn a_part_that_only_terraform_puts_in_does_not_hide_the_rest() {
    let text = HEREDOC.replace(
        "        }\n      }\n    ]",
        "        }\n      }\n      %{ if var.proxy ~}\n      , {\"name\": \"proxy\", \"image\": \"nginx\"}\n      %{ endif ~}\n    ]",
    );
    assert_ne!(text, HEREDOC);
    insta::assert_snapshot!(read(&alone("main.tf", &text)), @r"
    app fargate None Shared services 0 groups 0 and more
      6: ${var.name}-app ? stop Some(25.0) ports [8080]
    ");
    let quoted = "resource \"aws_ecs_task_definition\" \"a\" {\n  container_definitions = \"[{\\\"name\\\": \\\"app\\\", \\\"image\\\": \\\"${var.registry == \"\" ? \"a\" : var.registry}/i\\\", \\\"stopTimeout\\\": 5}]\"\n}\n";
    let source = alone("main.tf", quoted);
    insta::assert_snapshot!(read(&source), @r"
    a fargate None Apart services 0 groups 0
      2: app ? stop Some(5.0) ports []
    ");
    assert!(
        added(&source, "app")
            .unwrap_err()
            .to_string()
            .contains("not written as a list")
    );
}

#[test]
fn files_beside_it_are_read_and_findings_stand_where_they_are_called() {
    let module = Module::of(&[
        (
            "main.tf",
            r#"resource "aws_ecs_task_definition" "one" {
  family                = "one"
  container_definitions = templatefile("${path.module}/templates/one.json.tpl", {
    name = "app"
    cpu  = var.cpu
    more = ["x", "y"]
  })
}

resource "aws_ecs_task_definition" "two" {
  family                = "two"
  container_definitions = file("./two.json")
}

resource "aws_ecs_task_definition" "three" {
  family                = "three"
  container_definitions = data.template_file.three.rendered
}

data "template_file" "three" {
  template = file("templates/three.json")
  vars = {
    port = var.port
  }
}

resource "aws_ecs_task_definition" "four" {
  family                = "four"
  container_definitions = file("/etc/hostname")
}
"#,
        ),
        (
            "templates/one.json.tpl",
            "[{\"name\": \"${name}\", \"image\": \"i\", \"cpu\": ${cpu}, \"command\": [%{ for word in more ~}\"${word}\",%{ endfor ~}\"z\"]}]",
        ),
        ("two.json", r#"[{"name": "two", "image": "i", "stopTimeout": 7}]"#),
        (
            "templates/three.json",
            r#"[{"name": "three", "image": "i", "portMappings": [{"containerPort": ${port}}]}]"#,
        ),
        (
            "variables.tf",
            "variable \"cpu\" {\n  default = 256\n}\nvariable \"port\" {\n  default = 1\n}\n",
        ),
        ("prod.auto.tfvars", "port = 9000\n"),
        (
            "service.tf",
            "resource \"aws_ecs_service\" \"one\" {\n  launch_type     = \"FARGATE\"\n  task_definition = \"${aws_ecs_task_definition.one.family}:1\"\n}\n",
        ),
        ("broken.tf", "resource {"),
        (
            "other.tf",
            "resource \"aws_ecs_task_definition\" \"other\" {\n  container_definitions = jsonencode([{ name = \"other\", image = \"i\" }])\n}\n",
        ),
    ]);
    let source = module.source("main.tf");
    insta::assert_snapshot!(read(&source), @r"
    one fargate Some(true) Shared services 1 groups 0
      3: app i stop None ports []
    two fargate None Apart services 0 groups 0
      12: two i stop Some(7.0) ports []
    three fargate None Apart services 0 groups 0
      17: three i stop None ports [9000]
    four fargate None Apart services 0 groups 0 and more
    ");
    let checked = check(module.source("main.tf"), &Selection::default())
        .unwrap()
        .unwrap();
    insta::assert_snapshot!(checked.not_read.unwrap(), @"the containers of `four` are known to Terraform only: check what `terraform show -json` prints of a plan");
    let why = added(&source, "two").unwrap_err().to_string();
    insta::assert_snapshot!(why, @"the containers of `two` are not written as a list in this file: add the sidecar where they are, or make it `jsonencode([…])` with one entry a container first");
}

const MODULE_6: &str = r#"module "ecs_service" {
  source  = "terraform-aws-modules/ecs/aws//modules/service"
  version = "~> 6.0"

  container_definitions = {
    fluent-bit = {
      image     = "fluent-bit"
      essential = false
      firelensConfiguration = {
        type = "fluentbit"
      }
    }

    (local.name) = {
      image       = "app"
      essential   = true
      stopTimeout = 30
      portMappings = [
        {
          name          = "web"
          containerPort = 3000
        }
      ]
      dependsOn = [{
        containerName = "fluent-bit"
        condition     = "START"
      }]
    }
  }

  load_balancer = {
    service = {
      target_group_arn = module.alb.target_groups["web"].arn
      container_name   = local.name
      container_port   = 3000
    }
  }
}

locals {
  name = "web"
}
"#;

#[test]
fn the_modules_that_many_use_are_read_and_written() {
    let source = alone("main.tf", MODULE_6);
    insta::assert_snapshot!(read(&source), @r"
    ecs_service fargate Some(true) Shared services 1 groups 0
      6: fluent-bit fluent-bit stop Some(120.0) ports []
      14: web app stop Some(30.0) ports [3000]
    ");
    insta::assert_snapshot!(inserted(&source, "web"), @r#"

    prestop = {
      image     = "registry.example/ecs-prestop:1"
      essential = false
      dependsOn = [
        { containerName = "fluent-bit", condition = "START" },
        { containerName = (local.name), condition = "START" }
      ]
      stopTimeout = 90
      environment = [
        { name = "PRESTOP_DRAIN", value = "POST http://127.0.0.1:8080/drain" },
        { name = "PRESTOP_STOP_TIMEOUT", value = "90s" },
        { name = "PRESTOP_CAPACITY", value = "on-demand" }
      ]
      healthCheck = {
        command = ["CMD", "/ecs-prestop", "health"]
      }
      restartPolicy = {
        enabled          = true
        ignoredExitCodes = [0, 3, 4, 78]
      }
      user                   = "65532"
      readonlyRootFilesystem = true
      linuxParameters = {
        capabilities = {
          drop = ["ALL"]
        }
      }
    }
    "#);
    let old = MODULE_6
        .replace("~> 6.0", "~> 5.0")
        .replace("firelensConfiguration", "firelens_configuration")
        .replace("stopTimeout", "stop_timeout")
        .replace("portMappings", "port_mappings")
        .replace("dependsOn", "dependencies");
    let source = alone("main.tf", &old);
    insta::assert_snapshot!(read(&source), @r"
    ecs_service fargate Some(true) Shared services 1 groups 0
      6: fluent-bit fluent-bit stop Some(120.0) ports []
      14: web app stop Some(30.0) ports [3000]
    ");
    insta::assert_snapshot!(inserted(&source, "web"), @r#"

    prestop = {
      image     = "registry.example/ecs-prestop:1"
      essential = false
      dependencies = [
        { containerName = "fluent-bit", condition = "START" },
        { containerName = (local.name), condition = "START" }
      ]
      stop_timeout = 90
      environment = [
        { name = "PRESTOP_DRAIN", value = "POST http://127.0.0.1:8080/drain" },
        { name = "PRESTOP_STOP_TIMEOUT", value = "90s" },
        { name = "PRESTOP_CAPACITY", value = "on-demand" }
      ]
      health_check = {
        command = ["CMD", "/ecs-prestop", "health"]
      }
      user                     = "65532"
      readonly_root_filesystem = true
      linux_parameters = {
        capabilities = {
          drop = ["ALL"]
        }
      }
    }
    "#);
}

const CLOUDPOSSE: &str = r#"module "app" {
  source          = "cloudposse/ecs-container-definition/aws"
  version         = "0.61.1"
  container_name  = "app"
  container_image = "cloudposse/geodesic"
  stop_timeout    = 20
  entrypoint      = ["/bin/app"]
  port_mappings = [{
    containerPort = 8080
  }]
  map_environment = {
    A = "1"
  }
}

module "proxy" {
  source               = "cloudposse/ecs-container-definition/aws"
  container_name       = "proxy"
  container_image      = "nginx"
  container_depends_on = [{ containerName = "app", condition = "START" }]
}

resource "aws_ecs_task_definition" "one" {
  family                = "one"
  network_mode          = "host"
  container_definitions = jsonencode([module.app.json_map_object, module.proxy.json_map_object])
}

resource "aws_ecs_task_definition" "two" {
  family                = "two"
  container_definitions = "[${module.app.json_map_encoded},${module.proxy.json_map_encoded}]"
}

module "service" {
  source                    = "cloudposse/ecs-alb-service-task/aws"
  container_definition_json = module.app.json_map_encoded_list
  launch_type               = "EC2"
  ecs_load_balancers = [{
    target_group_arn = aws_lb_target_group.app.arn
    container_name   = "app"
  }]
}

resource "aws_lb_target_group" "app" {}
"#;

#[test]
fn containers_that_are_modules_of_their_own_are_followed() {
    let source = alone("main.tf", CLOUDPOSSE);
    insta::assert_snapshot!(read(&source), @r"
    one fargate Some(false) Shared services 0 groups 0
      1: app cloudposse/geodesic stop Some(20.0) ports [8080]
      16: proxy nginx stop None ports []
    two fargate None Apart services 0 groups 0
      1: app cloudposse/geodesic stop Some(20.0) ports [8080]
      16: proxy nginx stop None ports []
    service fargate Some(false) Shared services 1 groups 1
      1: app cloudposse/geodesic stop Some(20.0) ports [8080]
    ");
    let of = |task: &str| {
        let options = AddOptions {
            task: Some(task.to_owned()),
            ..options("app")
        };
        add(&source, &options)
    };
    insta::assert_snapshot!(of("service").unwrap_err(), @"the list of containers of `service` is `module.app.json_map_encoded_list`, not written out: make it `jsonencode([…])` with one entry a container first");
    let text = of("one").unwrap().text;
    assert!(
        text.contains("module.proxy.json_map_object, {\n    name"),
        "{text}"
    );
}

fn plan() -> serde_json::Value {
    let containers = json!([{"name": "app", "image": "über/app:1", "stopTimeout": 300}]).to_string();
    let task = |address: &str| {
        json!({
            "address": address, "mode": "managed", "type": "aws_ecs_task_definition", "name": "app",
            "values": {
                "family": "web", "network_mode": "awsvpc", "requires_compatibilities": ["FARGATE"],
                "container_definitions": containers, "runtime_platform": [{"operating_system_family": "LINUX"}],
            }
        })
    };
    let service = json!({
        "address": "aws_ecs_service.app", "mode": "managed", "type": "aws_ecs_service", "name": "app",
        "values": {"launch_type": "FARGATE", "load_balancer": [{"container_name": "app"}], "desired_count": 2}
    });
    let group = json!({
        "address": "aws_lb_target_group.app", "mode": "managed", "type": "aws_lb_target_group", "name": "app",
        "values": {"deregistration_delay": "300", "health_check": [{"path": "/"}]}
    });
    let unknown = json!({
        "address": "aws_ecs_task_definition.later", "mode": "managed", "type": "aws_ecs_task_definition",
        "name": "later", "values": {"family": "later"}
    });
    let configuration = json!({"resources": [{
        "address": "aws_ecs_service.app", "mode": "managed", "type": "aws_ecs_service", "name": "app",
        "expressions": {
            "task_definition": {"references": ["aws_ecs_task_definition.app.arn", "aws_ecs_task_definition.app"]},
            "load_balancer": [{"target_group_arn": {"references": ["aws_lb_target_group.app.arn"]}}]
        }
    }]});
    json!({
        "format_version": "1.2", "terraform_version": "1.9.0",
        "planned_values": {"root_module": {
            "resources": [task("aws_ecs_task_definition.app"), service, group, unknown],
            "child_modules": [{
                "address": "module.web[\"a\"]",
                "resources": [task("module.web[\"a\"].aws_ecs_task_definition.app")],
                "child_modules": []
            }]
        }},
        "configuration": {"root_module": configuration}
    })
}

#[test]
fn a_plan_and_a_state_are_read_with_the_places_in_their_texts() {
    let text = plan().to_string();
    let source = alone("plan.json", &text);
    insta::assert_snapshot!(read(&source), @r#"
    aws_ecs_task_definition.app fargate Some(true) Shared services 1 groups 1
      1: app über/app:1 stop Some(300.0) ports []
    aws_ecs_task_definition.later fargate None Apart services 0 groups 0 and more
    module.web["a"].aws_ecs_task_definition.app fargate Some(true) Shared services 0 groups 0
      1: app über/app:1 stop Some(300.0) ports []
    "#);
    let checked = check(alone("-", &text), &Selection::default()).unwrap().unwrap();
    insta::assert_snapshot!(checked.not_read.as_deref().unwrap_or(""), @"the containers of `aws_ecs_task_definition.later` are known to Terraform once it is applied: check the `.tf` files, or `terraform show -json` afterwards");
    let found = checked
        .findings
        .iter()
        .find(|finding| finding.rule.id == "PS011")
        .unwrap();
    assert_eq!(&text[found.span.start..found.span.end], "300");
    let why = add(
        &source,
        &AddOptions {
            task: Some("aws_ecs_task_definition.app".to_owned()),
            ..options("app")
        },
    )
    .unwrap_err();
    insta::assert_snapshot!(why, @"this is what Terraform or a program wrote: add the sidecar where it is written by hand, in the `.tf` file or the program");

    let state = json!({
        "format_version": "1.0",
        "values": {"root_module": {"resources": [
            {"address": "aws_ecs_task_definition.app", "mode": "managed", "type": "aws_ecs_task_definition",
             "name": "app", "values": {"arn": "arn:aws:ecs:eu-central-1:1:task-definition/web:3", "family": "web",
             "container_definitions": "[{\"name\":\"app\",\"image\":\"i\"}]"}},
            {"address": "aws_ecs_service.app", "mode": "managed", "type": "aws_ecs_service", "name": "app",
             "values": {"task_definition": "arn:aws:ecs:eu-central-1:1:task-definition/web:3",
             "load_balancer": [{"target_group_arn": "arn:tg"}]}},
            {"address": "aws_lb_target_group.app", "mode": "managed", "type": "aws_lb_target_group", "name": "app",
             "values": {"arn": "arn:tg"}}
        ]}}
    });
    insta::assert_snapshot!(read(&alone("state.json", &state.to_string())), @r"
    aws_ecs_task_definition.app fargate None Apart services 1 groups 1
      1: app i stop None ports []
    ");
}

#[test]
fn what_cdktf_writes_is_read() {
    let text = json!({
        "//": {"metadata": {}},
        "terraform": {},
        "resource": {"aws_ecs_task_definition": {
            "one": {"family": "one", "container_definitions": "${jsonencode([{\"name\" = \"app\", \"image\" = \"i\", \"stopTimeout\" = 9}])}"},
            "two": [{"family": "two", "container_definitions": "[{\"name\":\"two\",\"image\":\"${aws_ecr_repository.a.url}\"}]"}]
        }}
    });
    insta::assert_snapshot!(read(&alone("cdk.tf.json", &text.to_string())), @r"
    one fargate None Apart services 0 groups 0
      1: app i stop Some(9.0) ports []
    two fargate None Apart services 0 groups 0
      1: two ? stop None ports []
    ");
}

#[test]
fn the_sidecar_is_written_in_the_layout_of_the_file() {
    insta::assert_snapshot!(inserted(&alone("main.tf", MAIN), "app"), @r#"
    ,
        {
          name      = "prestop"
          image     = "registry.example/ecs-prestop:1"
          essential = false
          dependsOn = [
            { containerName = local.name, condition = "START" }
          ]
          stopTimeout = 90
          environment = [
            { name = "PRESTOP_DRAIN", value = "POST http://127.0.0.1:8080/drain" },
            { name = "PRESTOP_STOP_TIMEOUT", value = "90s" },
            { name = "PRESTOP_CAPACITY", value = "on-demand" }
          ]
          healthCheck = {
            command = ["CMD", "/ecs-prestop", "health"]
          }
          restartPolicy = {
            enabled          = true
            ignoredExitCodes = [0, 3, 4, 78]
          }
          user                   = "65532"
          readonlyRootFilesystem = true
          linuxParameters = {
            capabilities = {
              drop = ["ALL"]
            }
          }
          logConfiguration = {
            logDriver = "awslogs"
            options = {
              awslogs-group         = aws_cloudwatch_log_group.app.name
              awslogs-region        = var.region
              awslogs-stream-prefix = "app"
              mode                  = "non-blocking"
            }
          }
        }
    "#);
    let hugged = "resource \"aws_ecs_task_definition\" \"app\" {\n\tfamily = \"a\"\n\tnetwork_mode = \"awsvpc\"\n\tmemory = 512\n\tcontainer_definitions = jsonencode([{\n\t\t\"name\" : \"app\",\n\t\t\"image\" : \"i\",\n\t\t\"stopTimeout\" : 5\n\t}])\n}\n";
    insta::assert_snapshot!(inserted(&alone("main.tf", hugged), "app"), @r#"
    , {
    		"name": "prestop",
    		"image": "registry.example/ecs-prestop:1",
    		"essential": false,
    		"dependsOn": [
    			{ "containerName": "app", "condition": "START" }
    		],
    		"stopTimeout": 90,
    		"environment": [
    			{ "name": "PRESTOP_DRAIN", "value": "POST http://127.0.0.1:8080/drain" },
    			{ "name": "PRESTOP_STOP_TIMEOUT", "value": "90s" },
    			{ "name": "PRESTOP_CAPACITY", "value": "on-demand" }
    		],
    		"healthCheck": {
    			"command": ["CMD", "/ecs-prestop", "health"]
    		},
    		"user": "65532",
    		"readonlyRootFilesystem": true,
    		"linuxParameters": {
    			"capabilities": {
    				"drop": ["ALL"]
    			}
    		}
    	}
    "#);
    // A comment stays with its container.
    let commented = alone("main.tf", &MAIN.replace("    }\n  ])", "    } # the app\n  ])"));
    let text = added(&commented, "app").unwrap().text;
    assert!(text.contains("\n    }, # the app\n    {\n"), "{text}");
    let crlf = MAIN.replace('\n', "\r\n");
    let part = inserted(&alone("main.tf", &crlf), "app");
    assert_eq!(part.matches('\n').count(), part.matches("\r\n").count());
}

#[test]
fn a_circle_of_locals_comes_to_an_end() {
    let text = "locals {\n  a = [local.b, local.b]\n  b = [local.a, local.a]\n  c = \"${local.d}${local.d}\"\n  d = \"${local.c}${local.c}x\"\n}\nresource \"aws_ecs_task_definition\" \"app\" {\n  family = local.c\n  container_definitions = jsonencode(local.a)\n}\n";
    assert!(document::parse("main.tf", text).is_ok());
    let called = "locals {\n  a = concat(local.b, [])\n  b = flatten([for x in [1] : merge({ x = local.a }, {})])\n  c = format(\"%s\", \"%{ for y in [1] }${local.d}%{ endfor }\")\n  d = join(\",\", [try(lookup({ z = local.c }, \"z\", 1), 1)])\n  e = true ? (local.f) : 1\n  f = \"x${!local.e}\"\n}\nresource \"aws_ecs_task_definition\" \"app\" {\n  family = local.c\n  memory = local.e\n  container_definitions = jsonencode(local.a)\n}\n";
    assert!(document::parse("main.tf", called).is_ok());
    let doubled: String = (1..64)
        .map(|n| format!("  s{n} = \"${{local.s{0}}}${{local.s{0}}}\"\n", n - 1))
        .collect();
    let text = format!(
        "locals {{\n  s0 = \"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\"\n{doubled}}}\nresource \"aws_ecs_task_definition\" \"app\" {{\n  family = local.s63\n}}\n"
    );
    assert!(document::parse("main.tf", &text).is_ok());
}

#[test]
fn a_file_without_a_task_definition_says_so() {
    let why = check(alone("main.tf", "variable \"a\" {}\n"), &Selection::default()).unwrap_err();
    insta::assert_snapshot!(why, @"main.tf:1:1: no task definition: expected `aws_ecs_task_definition` or a module that is known to make one");
    let why = check(
        alone("main.tf", "resource \"a\" {\n  b = \n}\n"),
        &Selection::default(),
    )
    .unwrap_err();
    insta::assert_snapshot!(why, @r#"main.tf:2:7: not HCL: invalid expression; expected `"`, `[`, `{`, `-`, `!`, `(`, `_`, `<`, letter or digit"#);
}

fn spans_are_within(node: &Node<'_>, length: usize) -> bool {
    node.span.start <= node.span.end
        && node.span.end <= length
        && node.items().iter().all(|item| spans_are_within(item, length))
        && node
            .entries()
            .iter()
            .all(|entry| entry.key_span.end <= length && spans_are_within(&entry.value, length))
}

proptest! {
    #![proptest_config(proptest::test_runner::Config { failure_persistence: None, cases: 400, ..Default::default() })]

    /// Damaged files, cut ones and pure noise: an answer, no panic, and no place outside of the file.
    #[test]
    fn no_text_makes_it_panic_or_point_outside(
        which in 0..6_usize,
        end in 0..3000_usize,
        cuts in proptest::collection::vec((0..3000_usize, 0..40_usize, "[\\[\\]{}:,=$%~\\\\<>\n\"a0ü-]{0,6}"), 0..6),
    ) {
        let (name, text) = match which {
            0 => ("a.tf", MAIN.to_owned()),
            1 => ("a.tf", HEREDOC.to_owned()),
            2 => ("a.tf", MODULE_6.to_owned()),
            3 => ("a.tf", CLOUDPOSSE.to_owned()),
            4 => ("a.json", plan().to_string()),
            _ => ("a.tf", String::new()),
        };
        let mut text = text;
        let boundary = |text: &str, at: usize| (0..=at.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        if end > 0 && end % 3 == 0 {
            text.truncate(boundary(&text, end));
        }
        for (at, length, new) in cuts {
            let start = boundary(&text, at);
            let end = boundary(&text, start + length).max(start);
            text.replace_range(start..end, &new);
        }
        if let Ok((root, _)) = document::parse(name, &text) {
            prop_assert!(spans_are_within(&root, text.len()), "{text}");
            let source = alone(name, &text);
            let _ = check(alone(name, &text), &Selection::default());
            if let Ok(added) = added(&source, "app") {
                let mut rest = added.text.bytes();
                prop_assert!(text.bytes().all(|byte| rest.any(|other| other == byte)), "{text}");
            }
        }
    }
}

/// A service on Cloud Map, behind a Network Load Balancer, run by a schedule on Spot, on instances that
/// may be Spot Instances.
const AROUND: &str = r#"
resource "aws_ecs_task_definition" "app" {
  family                = "app"
  container_definitions = jsonencode([{ name = "app", image = "app:1", appProtocol = "http" }])
}

resource "aws_ecs_service" "app" {
  task_definition = aws_ecs_task_definition.app.arn
  service_registries {
    registry_arn = aws_service_discovery_service.app.arn
  }
  load_balancer {
    target_group_arn = aws_lb_target_group.app.arn
    container_name   = "app"
    container_port   = 8080
  }
}

resource "aws_service_discovery_service" "app" {
  name = "app"
  dns_config {
    namespace_id = "ns-1"
    dns_records {
      type = "A"
      ttl  = 60
    }
    dns_records {
      type = "SRV"
      ttl  = 300
    }
  }
}

resource "aws_lb_target_group" "app" {
  protocol = "TCP"
  health_check {
    interval = 10
  }
}

resource "aws_cloudwatch_event_target" "nightly" {
  rule = "nightly"
  arn  = "cluster"
  ecs_target {
    task_definition_arn = aws_ecs_task_definition.app.arn
    capacity_provider_strategy {
      capacity_provider = "FARGATE_SPOT"
      weight            = 1
    }
  }
}

resource "aws_launch_template" "mixed" {
  user_data = base64encode(<<-EOT
    #!/bin/sh
    echo ECS_CLUSTER=web >>/etc/ecs/ecs.config
    echo ECS_CONTAINER_STOP_TIMEOUT=50s >>/etc/ecs/ecs.config
  EOT
  )
}

resource "aws_autoscaling_group" "mixed" {
  mixed_instances_policy {
    instances_distribution {
      on_demand_percentage_above_base_capacity = 20
    }
    launch_template {
      launch_template_specification {
        launch_template_id = aws_launch_template.mixed.id
      }
    }
  }
}
"#;

#[test]
fn what_stands_around_a_task_is_read_as_in_a_template() {
    let source = alone("ecs.tf", AROUND);
    let (root, _) = document::parse(&source.name, &source.text).unwrap();
    let tasks = model::tasks(&root).unwrap();
    let [task] = tasks.as_slice() else {
        panic!("{} tasks", tasks.len());
    };
    let [service] = task.services.as_slice() else {
        panic!("{} services", task.services.len());
    };
    assert_eq!(service.dns_ttl_s.map(|(seconds, _)| seconds), Some(300));
    let group = &service.target_groups[0];
    assert!(group.is_network());
    // Terraform's threshold is 3 where a health check does not say it.
    assert_eq!(group.unhealthy_after_s(), Some(30));
    let scheduled: Vec<_> = task.scheduled_on_spot.iter().map(|(name, _)| *name).collect();
    assert_eq!(scheduled, ["nightly"]);
    assert_eq!(task.agent_stop_timeout_s, Some(50.0));
    let told = |text: &str| -> Vec<_> {
        let checked = check(alone("ecs.tf", text), &Selection::default())
            .unwrap()
            .unwrap();
        let findings = checked.findings.iter();
        findings
            .filter(|finding| ["PS055", "PS057"].contains(&finding.rule.id))
            .map(|finding| format!("{}:{}", finding.rule.id, finding.start.line))
            .collect()
    };
    let both = told(AROUND);
    let drains = "ECS_ENABLE_SPOT_INSTANCE_DRAINING=true";
    let mended = told(&AROUND.replace("ECS_CLUSTER=web", drains));
    let lines = |text: &str| AROUND.lines().position(|line| line.contains(text)).unwrap() + 1;
    assert!(
        both.contains(&format!("PS055:{}", lines("\"aws_launch_template\""))),
        "{both:?}"
    );
    assert!(!mended.iter().any(|line| line.starts_with("PS055")), "{mended:?}");
    // Instances are told of where their tasks stand in another file, too.
    let alone_with_instances = AROUND.split("resource \"aws_launch_template\"").nth(1).unwrap();
    let apart = told(&format!("resource \"aws_launch_template\"{alone_with_instances}"));
    assert_eq!(apart, ["PS055:1"]);
}

#[test]
fn only_what_the_file_says_itself_is_mended() {
    let fixes = |name: &str, stop: &str| -> Vec<_> {
        let main = format!(
            "variable \"stop\" {{\n  default = 600\n}}\nresource \"aws_ecs_task_definition\" \"app\" {{\n  \
             requires_compatibilities = [\"FARGATE\"]\n  container_definitions = jsonencode([{{\n    name = \"app\"\n    \
             image = \"app:1\"\n    stopTimeout = {stop}\n  }}])\n}}\n"
        );
        let module = Module::of(&[
            (name, &main),
            ("more.tf", "locals {\n  stop = 600\n  more = { stop = 600 }\n}\n"),
        ]);
        let checked = check(module.source(name), &Selection::default())
            .unwrap()
            .unwrap();
        assert!(
            checked.findings.iter().any(|finding| finding.rule.id == "PS011"),
            "{stop}"
        );
        let fixes = checked.findings.iter().filter_map(|finding| finding.fix.clone());
        fixes
            .map(|edit| (main[edit.span.start..edit.span.end].to_owned(), edit.text))
            .collect()
    };
    assert_eq!(fixes("main.tf", "600"), [("600".to_owned(), "120".to_owned())]);
    for elsewhere in ["var.stop", "local.stop", "local.more.stop", "\"${var.stop}\""] {
        assert_eq!(fixes("main.tf", elsewhere), [], "{elsewhere}");
    }
}

#[test]
fn what_count_and_for_each_leave_out_is_not_there() {
    let module = |count: &str| {
        let text = format!(
            "variable \"on\" {{\n  default = false\n}}\nlocals {{\n  off = false\n}}\nresource \"aws_ecs_task_definition\" \"app\" {{\n  \
             {count}\n  container_definitions = jsonencode([{{ name = \"web-${{count.index}}${{each.value}}\", image = \"app:1\", \
             stopTimeout = 1000 }}])\n}}\n"
        );
        let source = alone("main.tf", &text);
        let (root, _) = document::parse(&source.name, &source.text).unwrap();
        // Without any it is a file of something else.
        let tasks = model::tasks(&root).unwrap_or_default();
        let names = tasks.iter().flat_map(|task| &task.containers);
        names
            .map(|container| container.name.text.to_string())
            .collect::<Vec<_>>()
    };
    for gone in [
        "count = 0",
        "count = local.off ? 1 : 0",
        "for_each = {}",
        "for_each = toset([])",
    ] {
        assert_eq!(module(gone), [""; 0], "{gone}");
    }
    // What is off by default is on for somebody.
    assert_eq!(module("count = var.on ? 1 : 0").len(), 1);
    assert_eq!(module("count = var.more").len(), 1);
    let named = |count: &str, unknown: &str| {
        let text = format!(
            "resource \"aws_ecs_task_definition\" \"app\" {{\n  {count}\n  container_definitions = jsonencode([{{ name = \"{unknown}\", \
             image = \"app:1\" }}])\n}}\n"
        );
        read(&alone("main.tf", &text))
    };
    assert!(named("count = 1", "web-${count.index}").contains(": web-0 "));
    assert!(named("for_each = toset([\"a\"])", "web-${each.key}").contains(": web-a "));
    assert!(named("for_each = { a = { n = \"b\" } }", "web-${each.value.n}").contains(": web-b "));
    assert!(!named("count = 2", "web-${count.index}").contains(": web-0 "));
}

#[test]
fn what_a_module_nearby_gives_is_what_its_variables_hold() {
    let own = "variable \"stop\" {\n  default = 30\n}\nvariable \"image\" {}\nresource \"aws_ecs_task_definition\" \"app\" {\n  \
               requires_compatibilities = [\"FARGATE\"]\n  container_definitions = jsonencode([{ name = \"app\", image = var.image, \
               stopTimeout = var.stop }])\n}\n";
    let stop = |others: &[(&str, &str)]| {
        let files: Vec<(&str, &str)> = [("modules/web/main.tf", own)]
            .into_iter()
            .chain(others.iter().copied())
            .collect();
        let module = Module::of(&files);
        let text = read(&module.source("modules/web/main.tf"));
        let line = text
            .lines()
            .find(|line| line.contains(": app "))
            .unwrap()
            .to_owned();
        line.split(" image ")
            .next()
            .unwrap()
            .trim()
            .split_once(": ")
            .unwrap()
            .1
            .to_owned()
    };
    assert_eq!(stop(&[]), "app ? stop Some(30.0) ports []");
    let call = |path: &str, stop: &str| {
        format!(
            "locals {{\n  stop = 200\n}}\nmodule \"web\" {{\n  source = \"{path}\"\n  image = \"web:1\"\n  {stop}\n}}\n"
        )
    };
    let root = call("./modules/web", "stop = local.stop");
    assert_eq!(stop(&[("main.tf", &root)]), "app web:1 stop Some(200.0) ports []");
    let elsewhere = call("./modules/other", "stop = local.stop");
    assert_eq!(stop(&[("main.tf", &elsewhere)]), "app ? stop Some(30.0) ports []");
    // Where callers differ, or only Terraform knows, the default does not hold either.
    let prod = call("../../modules/web", "stop = 60");
    let differ = [
        ("main.tf", root.as_str()),
        ("environments/prod/main.tf", prod.as_str()),
    ];
    assert_eq!(stop(&differ), "app web:1 stop None ports []");
    let unknown = call("./modules/web", "stop = data.x.y.stop");
    assert_eq!(stop(&[("main.tf", &unknown)]), "app web:1 stop None ports []");
    let silent = call("./modules/web", "");
    assert_eq!(
        stop(&[("main.tf", &silent)]),
        "app web:1 stop Some(30.0) ports []"
    );
    // A finding stands where the value is used.
    let module = Module::of(&[("modules/web/main.tf", own), ("main.tf", &root)]);
    let checked = check(module.source("modules/web/main.tf"), &Selection::default())
        .unwrap()
        .unwrap();
    let findings: Vec<_> = checked
        .findings
        .iter()
        .map(|finding| (finding.rule.id, finding.start.line, finding.fix.is_some()))
        .collect();
    assert_eq!(findings, [("PS011", 7, false)]);
}

#[test]
fn managed_instances_and_hops_are_read_from_their_resources() {
    let text = |kind: &str, provider: &str| {
        format!(
            "resource \"aws_ecs_task_definition\" \"app\" {{\n  container_definitions = jsonencode([{{ name = \"app\", image = \"app:1\" \
             }}])\n}}\nresource \"aws_ecs_capacity_provider\" \"mine\" {{\n  name = \"mine\"\n  managed_instances_provider {{\n    \
             instance_launch_template {{\n      {kind}\n    }}\n  }}\n}}\nresource \"aws_ecs_service\" \"app\" {{\n  task_definition = \
             aws_ecs_task_definition.app.arn\n  capacity_provider_strategy {{\n    capacity_provider = {provider}\n    weight = 1\n  }}\n}}\n\
             resource \"aws_launch_template\" \"l\" {{\n  metadata_options {{\n    http_put_response_hop_limit = 1\n  }}\n}}\n"
        )
    };
    let told = |kind: &str, provider: &str| {
        let source = alone("main.tf", &text(kind, provider));
        let (root, _) = document::parse(&source.name, &source.text).unwrap();
        let tasks = model::tasks(&root).unwrap();
        let task = &tasks[0];
        assert_eq!(task.short_hops.len(), 1);
        let service = &task.services[0];
        (
            task.on_managed_instances(),
            service.spot.is_some(),
            service.on_demand,
        )
    };
    let own = "aws_ecs_capacity_provider.mine.name";
    assert_eq!(told("capacity_option_type = \"SPOT\"", own), (true, true, false));
    assert_eq!(told("", own), (true, false, true));
    assert_eq!(told("capacity_option_type = var.kind", own), (true, false, false));
    assert_eq!(told("", "\"other\""), (false, false, false));
}

const CALLS: &str = "module \"ecs\" {\n  source = \"git::https://example.com/terraform-ecs-service.git\"\n}\nmodule \"api\" {\n  source = \"./modules/api\"\n}\n";

const RESOURCE: &str = "resource \"aws_ecs_task_definition\" \"web\" {\n  family = \"web\"\n  container_definitions = jsonencode([{ name = \"web\", image = \"web:1\", stopTimeout = 60 }])\n}\n";

#[test]
fn a_file_with_nothing_but_calls_of_modules_is_not_taken_for_clean() {
    let module = Module::of(&[("main.tf", CALLS)]);
    let why = check(module.source("main.tf"), &Selection::default()).unwrap_err();
    insta::assert_snapshot!(why.message, @"no task definition: expected `aws_ecs_task_definition` or a module that is known to make one; the modules that it calls are not read (`ecs` from git::https://example.com/terraform-ecs-service.git, `api` from ./modules/api): check the directories of your own, or what `terraform show -json` prints of a plan");
    let directory = module.0.to_str().unwrap();
    let output = run(&["check", &format!("{directory}/main.tf")], &[]);
    assert_eq!(output.status.code(), Some(2));
    // Nobody named it: it is counted.
    fs::write(module.0.join("web.tf"), RESOURCE).unwrap();
    let output = run(&["check", directory], &[]);
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{told}");
    insta::assert_snapshot!(told, @"ecs-prestop: left out: 1 file with calls of modules only (check what `terraform show -json` prints of a plan)");
}

#[test]
fn the_other_files_of_a_module_are_no_fault_where_its_tasks_were_read() {
    let module = Module::of(&[("web.tf", RESOURCE), ("variables.tf", "variable \"image\" {}\n")]);
    let directory = module.0.to_str().unwrap();
    let (web, other) = (format!("{directory}/web.tf"), format!("{directory}/variables.tf"));
    let exits = |files: &[&str]| run(&[&["check"], files].concat(), &[]).status.code();
    assert_eq!(exits(&[&web, &other]), Some(0));
    assert_eq!(exits(&[&other]), Some(2));
}

#[test]
fn a_container_that_a_condition_adds_hides_none_of_the_others() {
    let text = "locals {\n  app = jsonencode({ name = \"app\", image = \"app:1\" })\n  web = jsonencode({ name = \"web\", image = \"web:1\" })\n}\n\
        resource \"aws_ecs_task_definition\" \"use\" {\n  family = \"use\"\n  container_definitions = \"[${local.web}, ${local.app} ${var.traced ? \", ${local.otel}\" : \"\"}]\"\n}\n";
    let source = alone("main.tf", text);
    let (root, _) = document::parse_among(&source.name, &source.text, &source).unwrap();
    let tasks = model::tasks(&root).unwrap();
    let names: Vec<_> = tasks[0]
        .containers
        .iter()
        .map(|container| container.name.text.as_ref())
        .collect();
    assert_eq!(names, ["web", "app"]);
    assert!(tasks[0].more_containers);
}

#[test]
fn the_containers_that_both_branches_of_a_condition_have_are_there() {
    let container = |name: &str, image: &str| {
        format!("{name} = jsonencode({{ name = \"{name}\", image = \"{image}\" }})\n")
    };
    let text = format!(
        "locals {{\n  {}  {}  {}}}\nresource \"aws_ecs_task_definition\" \"app\" {{\n  family = \"app\"\n  container_definitions = \
         var.tested ? \"[${{local.app}}, ${{local.otel}}, ${{local.agent}}]\" : \"[${{local.app}}, ${{local.otel}}]\"\n}}\n\
         resource \"aws_ecs_task_definition\" \"two\" {{\n  family = \"two\"\n  container_definitions = \
         jsonencode(var.new ? [{{ name = \"app\", image = \"app:2\" }}] : [{{ name = \"app\", image = \"app:1\" }}])\n}}\n",
        container("app", "app:1"),
        container("otel", "otel:1"),
        container("agent", "agent:1"),
    );
    let source = alone("main.tf", &text);
    let (root, _) = document::parse_among(&source.name, &source.text, &source).unwrap();
    let tasks = model::tasks(&root).unwrap();
    let names = |task: &TaskDefinition<'_>| -> Vec<String> {
        let names = task
            .containers
            .iter()
            .map(|container| container.name.text.to_string());
        names.collect()
    };
    assert_eq!(
        (names(&tasks[0]), tasks[0].more_containers),
        (vec!["app".to_owned(), "otel".to_owned()], true)
    );
    assert_eq!((names(&tasks[1]), tasks[1].more_containers), (vec![], true));
}
