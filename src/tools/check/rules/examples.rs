//! The examples of the rules: a task definition that passes them all, and the change that breaks one.

/// A text that passes, and what to replace in it so that it does not.
#[derive(Clone, Copy, Debug)]
pub struct Example {
    /// Clean.
    pub passing: &'static str,
    /// What stands in it, and what breaks the rule in its place.
    pub breaking: (&'static str, &'static str),
}

impl Example {
    pub fn failing(&self) -> String {
        let (good, bad) = self.breaking;
        self.passing.replacen(good, bad, 1)
    }
}

/// A web app on Fargate without the sidecar.
pub(super) const PLAIN: &str = r#"{
  "family": "web",
  "requiresCompatibilities": ["FARGATE"],
  "networkMode": "awsvpc",
  "cpu": "256",
  "memory": "512",
  "containerDefinitions": [
    {
      "name": "app",
      "image": "app:1",
      "command": ["java", "-jar", "app.jar"],
      "portMappings": [{"containerPort": 8080}],
      "stopTimeout": 60,
      "logConfiguration": {
        "logDriver": "awslogs",
        "options": {"awslogs-group": "web", "awslogs-region": "eu-central-1", "mode": "non-blocking"}
      }
    }
  ]
}
"#;

/// The same with what runs beside many apps.
pub(super) const BESIDES: &str = r#"{
  "family": "web",
  "containerDefinitions": [
    {
      "name": "log-router",
      "image": "amazon/aws-for-fluent-bit:3",
      "firelensConfiguration": {"type": "fluentbit"}
    },
    {
      "name": "database",
      "image": "pgbouncer:1"
    },
    {
      "name": "app",
      "image": "app:1",
      "dependsOn": [
        {"containerName": "log-router", "condition": "START"},
        {"containerName": "database", "condition": "START"}
      ],
      "stopTimeout": 60,
      "logConfiguration": {"logDriver": "awsfirelens"}
    }
  ]
}
"#;

/// A web app on Fargate Spot with the sidecar.
pub(super) const WEB: &str = r#"{
  "family": "web",
  "requiresCompatibilities": ["FARGATE"],
  "networkMode": "awsvpc",
  "cpu": "256",
  "memory": "512",
  "taskRoleArn": "arn:aws:iam::111122223333:role/web",
  "containerDefinitions": [
    {
      "name": "app",
      "image": "app:1",
      "portMappings": [{"containerPort": 8080}],
      "stopTimeout": 25
    },
    {
      "name": "prestop",
      "image": "ecs-prestop:0.1.0",
      "essential": false,
      "dependsOn": [{"containerName": "app", "condition": "START"}],
      "stopTimeout": 90,
      "environment": [
        {"name": "PRESTOP_DRAIN", "value": "http://app:8080/drain"},
        {"name": "PRESTOP_STOP_TIMEOUT", "value": "90s"},
        {"name": "PRESTOP_CAPACITY", "value": "spot"},
        {"name": "PRESTOP_DEREGISTER", "value": "true"},
        {"name": "PRESTOP_RESERVE", "value": "30s"},
        {"name": "PRESTOP_SETTLE", "value": "10s"}
      ],
      "healthCheck": {"command": ["CMD", "/ecs-prestop", "health"]},
      "restartPolicy": {"enabled": true, "ignoredExitCodes": [0, 3, 4, 78]},
      "readonlyRootFilesystem": true,
      "memory": 32
    }
  ]
}
"#;

/// A worker and nginx on EC2, each container with its own address, with the sidecar.
pub(super) const APART: &str = r#"{
  "family": "worker",
  "requiresCompatibilities": ["EC2"],
  "networkMode": "bridge",
  "pidMode": "task",
  "containerDefinitions": [
    {
      "name": "worker",
      "image": "worker:1",
      "memory": 256,
      "stopTimeout": 25
    },
    {
      "name": "nginx",
      "image": "nginx:1",
      "user": "101",
      "memory": 64,
      "stopTimeout": 25
    },
    {
      "name": "prestop",
      "image": "ecs-prestop:0.1.0",
      "user": "101",
      "essential": false,
      "dependsOn": [
        {"containerName": "worker", "condition": "START"},
        {"containerName": "nginx", "condition": "START"}
      ],
      "stopTimeout": 60,
      "environment": [
        {"name": "PRESTOP_DRAIN", "value": "http://worker:8080/stop, ack, signal QUIT nginx"},
        {"name": "PRESTOP_STOP_TIMEOUT", "value": "60s"},
        {"name": "PRESTOP_LISTEN", "value": "0.0.0.0:9911"}
      ],
      "secrets": [
        {"name": "PRESTOP_DRAIN_TOKEN", "valueFrom": "arn:aws:ssm:eu-central-1:111122223333:parameter/token"}
      ],
      "healthCheck": {"command": ["CMD", "/ecs-prestop", "health"]},
      "readonlyRootFilesystem": true,
      "memory": 32
    }
  ]
}
"#;

/// A web app on EC2 under bridge networking, where nobody sees the other's processes.
pub(super) const UNSHARED: &str = r#"{
  "family": "web",
  "requiresCompatibilities": ["EC2"],
  "networkMode": "bridge",
  "containerDefinitions": [
    {
      "name": "app",
      "image": "app:1",
      "memory": 256,
      "portMappings": [{"containerPort": 8080}],
      "stopTimeout": 25
    },
    {
      "name": "prestop",
      "image": "ecs-prestop:0.1.0",
      "essential": false,
      "dependsOn": [{"containerName": "app", "condition": "START"}],
      "stopTimeout": 60,
      "environment": [
        {"name": "PRESTOP_DRAIN", "value": "sleep 15s"},
        {"name": "PRESTOP_STOP_TIMEOUT", "value": "60s"},
        {"name": "PRESTOP_RESERVE", "value": "25s"}
      ],
      "healthCheck": {"command": ["CMD", "/ecs-prestop", "health"]},
      "readonlyRootFilesystem": true,
      "memory": 32
    }
  ]
}
"#;

/// What runs on a laptop.
pub(super) const COMPOSE: &str = "services:
  web:
    image: nginx:1
    stop_signal: SIGQUIT
";

/// A template with a service that others call by Service Connect only.
pub(super) const CONNECTED: &str = r"Resources:
  Task:
    Type: AWS::ECS::TaskDefinition
    Properties:
      RequiresCompatibilities: [FARGATE]
      NetworkMode: awsvpc
      Cpu: 256
      Memory: 512
      ContainerDefinitions:
        - Name: app
          Image: !Ref Image
          PortMappings: [{Name: http, ContainerPort: 8080}]
          StopTimeout: 25
        - Name: prestop
          Image: ecs-prestop:0.1.0
          Essential: false
          DependsOn: [{ContainerName: app, Condition: START}]
          StopTimeout: 90
          Environment:
            - {Name: PRESTOP_DRAIN, Value: 'quiet :8080'}
            - {Name: PRESTOP_STOP_TIMEOUT, Value: 90s}
            - {Name: PRESTOP_CAPACITY, Value: on-demand}
            - {Name: PRESTOP_SETTLE, Value: 0s}
          HealthCheck: {Command: [CMD, /ecs-prestop, health]}
          ReadonlyRootFilesystem: true
  Service:
    Type: AWS::ECS::Service
    Properties:
      TaskDefinition: !Ref Task
      DesiredCount: 2
      LaunchType: FARGATE
      ServiceConnectConfiguration:
        Enabled: true
        Services: [{PortName: http}]
";

/// A template with all that stands around a task.
pub(super) const TEMPLATE: &str = r"Resources:
  Task:
    Type: AWS::ECS::TaskDefinition
    Properties:
      RequiresCompatibilities: [FARGATE]
      NetworkMode: awsvpc
      Cpu: 256
      Memory: 512
      ContainerDefinitions:
        - Name: app
          Image: !Ref Image
          StopTimeout: 25
        - Name: prestop
          Image: ecs-prestop:0.1.0
          Essential: false
          DependsOn: [{ContainerName: app, Condition: START}]
          StopTimeout: 90
          Environment:
            - {Name: PRESTOP_DRAIN, Value: 'http://app:8080/drain'}
            - {Name: PRESTOP_STOP_TIMEOUT, Value: 90s}
            - {Name: PRESTOP_RESERVE, Value: 30s}
            - {Name: PRESTOP_LISTEN, Value: '0.0.0.0:9911'}
          HealthCheck: {Command: [CMD, /ecs-prestop, health]}
          ReadonlyRootFilesystem: true
  TargetGroup:
    Type: AWS::ElasticLoadBalancingV2::TargetGroup
    Properties:
      TargetType: ip
      Port: 8080
      Protocol: HTTP
      VpcId: !Ref Vpc
      HealthCheckPort: '9911'
      HealthCheckPath: /ready
      TargetGroupAttributes:
        - {Key: deregistration_delay.timeout_seconds, Value: '60'}
  Service:
    Type: AWS::ECS::Service
    Properties:
      Cluster: !Ref Cluster
      TaskDefinition: !Ref Task
      DesiredCount: 2
      CapacityProviderStrategy:
        - {CapacityProvider: FARGATE, Base: 1}
        - {CapacityProvider: FARGATE_SPOT, Weight: 1}
      DeploymentConfiguration: {MinimumHealthyPercent: 100, MaximumPercent: 200}
      LoadBalancers:
        - {ContainerName: app, ContainerPort: 8080, TargetGroupArn: !Ref TargetGroup}
  Schedule:
    Type: AWS::Scheduler::Schedule
    Properties:
      ScheduleExpression: rate(1 hour)
      Target:
        Arn: !GetAtt Cluster.Arn
        EcsParameters:
          TaskDefinitionArn: !Ref Task
          CapacityProviderStrategy: [{CapacityProvider: FARGATE, Weight: 1}]
  Instances:
    Type: AWS::EC2::LaunchTemplate
    Properties:
      LaunchTemplateData:
        InstanceMarketOptions: {MarketType: spot}
        MetadataOptions: {HttpPutResponseHopLimit: 2}
        UserData:
          Fn::Base64: |
            #!/bin/sh
            echo ECS_CLUSTER=web >>/etc/ecs/ecs.config
            echo ECS_ENABLE_SPOT_INSTANCE_DRAINING=true >>/etc/ecs/ecs.config
";
